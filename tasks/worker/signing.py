"""May this worker unpickle states that nobody signed? Only where nobody else can write to Redis, or if it was told to."""

from __future__ import annotations

import secrets

from celery_partitions.admin.permissions import is_local
from celery_partitions.model.errors import SetupError
from celery_partitions.runtime.installation import Installation


def check_signing(installation: Installation) -> str | None:
    """The warning of a worker that works without a signing key; None if it has one, or has no states.

    Raises `SetupError` if the server is not on this machine and nobody allowed unsigned states.
    """
    settings = installation.settings
    if settings.state_signing_keys or not any(one.state is not None for one in installation.computations.values()):
        return None
    if settings.unsigned_states:
        return None
    if not is_local(settings.redis_url):
        raise SetupError(
            "PARTITIONS_STATE_SIGNING_KEY is not set, and Redis is not on this machine. States are pickles: without a key whoever can write "
            "to Redis chooses what the worker unpickles. Give all workers, Flower and your own processes the same key, for example "
            f"this new one:\n\n    PARTITIONS_STATE_SIGNING_KEY={secrets.token_hex(32)}\n\n"
            "If states were already written without a key, a worker with a key does not read them. To go on without a key, set "
            "PARTITIONS_UNSIGNED_STATES=1"
        )
    return (
        "states are not signed: whoever can write to Redis on this machine chooses what is unpickled, and unsigned states are "
        "slower to read. Set PARTITIONS_STATE_SIGNING_KEY (openssl rand -hex 32), or PARTITIONS_UNSIGNED_STATES=1 to work without"
    )
