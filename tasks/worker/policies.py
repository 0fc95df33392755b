"""The failure policy in force of each computation in this worker: as declared, as the settings say, as operators changed it."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import msgspec

from celery_partitions.admin.policies import default_policy
from celery_partitions.model.computation import Computation
from celery_partitions.model.errors import DeclarationError
from celery_partitions.model.policy import PolicyChange, RetryPolicy, effective_policy
from celery_partitions_config.settings import Settings

logger = logging.getLogger("celery.worker.partitions")


class Policies:
    """Told by the lease keeper what operators changed; asked by the step for each failure."""

    def __init__(self, settings: Settings) -> None:
        self.default = default_policy(settings)
        self._written: Mapping[str, bytes] = {}
        self._changes: dict[str, PolicyChange] = {}

    def of(self, computation: Computation) -> RetryPolicy:
        return effective_policy(self.default, computation.on_error, self._changes.get(computation.name))

    def follow(self, written: Mapping[str, bytes]) -> None:
        """Take in the changes as they are in Redis; one that can't be used is said once, and not followed."""
        if written == self._written:
            return
        self._written, self._changes = dict(written), {}
        for name, text in written.items():
            try:
                change = msgspec.json.decode(text, type=PolicyChange)
                effective_policy(self.default, None, change)
            except (msgspec.DecodeError, UnicodeDecodeError, DeclarationError) as error:
                logger.error("the changed policy of %r can't be used: %s; it stays as declared", name, error)  # noqa: TRY400
            else:
                self._changes[name] = change
                logger.info("the policy of %r was changed: %s", name, text.decode())
