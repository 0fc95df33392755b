"""Decides whether this worker may unpickle unsigned states: only with a local Redis, or if `PARTITIONS_UNSIGNED_STATES` allows it."""

from __future__ import annotations

import secrets

from celery_partitions.admin.permissions import is_local
from celery_partitions.model.errors import SetupError
from celery_partitions.runtime.installation import Installation


def check_signing(installation: Installation) -> str | None:
    """The warning for a worker without a signing key; None if it has a key or no states.

    Raises `SetupError` if Redis is on another machine and unsigned states are not allowed.
    """
    settings = installation.settings
    if settings.state_signing_keys or not any(one.state is not None for one in installation.computations.values()):
        return None
    if settings.unsigned_states:
        return None
    if not is_local(settings.redis_url) or (settings.partitions_url and not is_local(settings.partitions_url)):
        raise SetupError(
            "PARTITIONS_STATE_SIGNING_KEY is not set, and Redis is not on this machine. States are pickles: without a key, anyone who can "
            "write to Redis can forge states that the worker unpickles. Give all workers, Flower and your own processes the same key, for example "
            f"this new one:\n\n    PARTITIONS_STATE_SIGNING_KEY={secrets.token_hex(32)}\n\n"
            "A worker with a key does not read states that were written without one. To continue without a key, set "
            "PARTITIONS_UNSIGNED_STATES=1"
        )
    return (
        "states are not signed: anyone who can write to Redis on this machine can forge states that the worker unpickles, and unsigned states are "
        "slower to read. Set PARTITIONS_STATE_SIGNING_KEY (openssl rand -hex 32) before there are states that you need: a worker with a key "
        "does not read unsigned ones. Or set PARTITIONS_UNSIGNED_STATES=1 to accept this"
    )
