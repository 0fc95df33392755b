"""The secret that proves that a worker of the group wrote a follow-up. It is in the group's hash; producers need no right to read it."""

from __future__ import annotations

import secrets
from typing import cast

import redis

from celery_partitions.store.names import Names
from celery_partitions.store.scripts import script

_FIELD = "follow-up secret"


def follow_up_secret(client: redis.Redis, names: Names) -> bytes:
    """The group's secret. The first worker that asks creates it."""
    return cast(bytes, script("follow_up_secret").run(client, [names.group_meta], [_FIELD, secrets.token_hex(32)]))
