"""`partitions stored`: facts about a state for a process that cannot unpickle it."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
import redis

from celery_partitions.model.keys import partition_of
from celery_partitions.store.codec import StateCodec
from celery_partitions_config.settings import Settings
from tests.cli.conftest import Refused, Run
from tests.cli.declared import Last, update
from tests.producer.conftest import MakeApp

SECRET = b"a key of the workers"
HASH = f"{{partition.{partition_of('AAPL', 4)}}}:state:{update.name}"


class Springs:
    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("it was unpickled",)


def put(client: redis.Redis, *secrets: bytes, data: bytes | None = None) -> int:
    stored = StateCodec(secrets, group="partition").seal(update.name, "AAPL", data or pickle.dumps(Last(), 5))
    client.hset(HASH, "AAPL", stored)  # type: ignore[arg-type]
    return len(stored)


def test_a_process_without_the_key_sees_that_and_how_a_state_is_stored(run: Run, refused: Refused, client: redis.Redis) -> None:
    size = put(client, SECRET, data=pickle.dumps(Springs()))
    result = run("stored", update.name, "AAPL", "--json")
    assert json.loads(result.stdout) == {
        "computation": update.name,
        "key": "AAPL",
        "partition": partition_of("AAPL", 4),
        "bytes": size,
        "form": "signed",
        "verified": None,
    }
    assert "not verified: no key here" in run("stored", update.name, "AAPL").stdout
    refused("state", update.name, "AAPL", says="PARTITIONS_STATE_SIGNING_KEY is not set: it is not unpickled")


def test_a_process_with_a_key_sees_whether_it_signed_it(
    run: Run, client: redis.Redis, make_app: MakeApp, settings: Settings
) -> None:
    put(client, SECRET)
    for secret, says in ((SECRET, "by a key of this process"), (b"another, 16 bytes or more", "by no key of this process")):
        app = make_app(settings.redis_url, Settings(redis_url=settings.redis_url, state_signing_keys=(secret,)))
        assert says in run("stored", update.name, "AAPL", app=app).stdout


def test_unsigned_states_and_other_bytes(run: Run, client: redis.Redis) -> None:
    put(client, data=pickle.dumps(Springs()))
    assert ", unsigned" in run("stored", update.name, "AAPL").stdout
    client.hset(HASH, "AAPL", b"\x09nonsense")
    assert "9 bytes, unknown" in run("stored", update.name, "AAPL").stdout
    client.delete(HASH)
    missing = run("stored", update.name, "AAPL")
    assert (missing.exit_code, missing.stdout) == (1, "")
