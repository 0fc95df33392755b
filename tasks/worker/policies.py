"""Each computation's effective failure policy in this worker: settings, then declaration, then operators' changes."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import msgspec

from celery_partitions.admin.policies import default_policy
from celery_partitions.model.computation import Computation
from celery_partitions.model.errors import DeclarationError
from celery_partitions.model.policy import PolicyChange, RetryPolicy, check_limit, effective_policy
from celery_partitions.model.rate_limit import RateLimit, changed_limit
from celery_partitions_config.settings import Settings

logger = logging.getLogger("celery.worker.partitions")


class Policies:
    """Receives operators' changes from the lease keeper. The step asks it after each failure."""

    def __init__(self, settings: Settings) -> None:
        self.default = default_policy(settings)
        self._written: Mapping[str, bytes] = {}
        self._changes: dict[str, PolicyChange] = {}

    def of(self, computation: Computation) -> RetryPolicy:
        return effective_policy(self.default, computation.on_error, self._change_of(computation))

    def limit_of(self, computation: Computation) -> RateLimit | None:
        """The rate limit in force; None if there is none."""
        declared, change = computation.rate_limit, self._change_of(computation)
        if declared is None or change is None:
            return declared
        return changed_limit(declared, change.rate_limit, change.burst)

    def _change_of(self, computation: Computation) -> PolicyChange | None:
        """What an operator changed, under its name or a former one."""
        return next((self._changes[name] for name in (computation.name, *computation.former_names) if name in self._changes), None)

    def follow(self, written: Mapping[str, bytes]) -> None:
        """Apply the changes stored in Redis. An invalid one is logged once and ignored."""
        if written == self._written:
            return
        self._written, self._changes = dict(written), {}
        for name, text in written.items():
            try:
                change = msgspec.json.decode(text, type=PolicyChange)
                effective_policy(self.default, None, change)
                check_limit(change)
            except (msgspec.DecodeError, UnicodeDecodeError, DeclarationError, ValueError) as error:
                logger.error("ignoring the invalid policy change of %r: %s; the declared policy applies", name, error)  # noqa: TRY400
            else:
                self._changes[name] = change
                logger.info("an operator changed the policy of %r: %s", name, text.decode())
