"""Runs the commands on an app of the test: `run("status", "--json")`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from celery import Celery
from click.testing import CliRunner, Result

from celery_partitions.cli.commands import partitions
from celery_partitions.model.items import DeadLetterItem
from celery_partitions.model.keys import partition_of
from celery_partitions.model.outcome import Outcome
from celery_partitions.runtime.registry import installation_of
from celery_partitions.store.names import Names
from celery_partitions_config.settings import Settings
from tests.cli.declared import Last, update
from tests.producer.conftest import MakeApp, make_app
from tests.store.declared import commands_of_outcome

__all__ = ["make_app"]

Run = Callable[..., Result]
Refused = Callable[..., None]


@pytest.fixture
def app(make_app: MakeApp, settings: Settings) -> Celery:
    """The tests' app, on an empty database."""
    return make_app(settings.redis_url, settings)


@pytest.fixture
def run(app: Celery) -> Run:
    """Run a command. Any exception but an exit code fails the test."""

    def run(*words: str, stdin: str | bytes | None = None, app: Celery = app) -> Result:
        # The context that the celery command passes to its sub-commands.
        context = SimpleNamespace(app=app)
        result = CliRunner().invoke(partitions, words, input=stdin, obj=context)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def refused(run: Run) -> Refused:
    """Run a command that refuses to do anything: nothing is printed, and the error `says` each of these texts. `code`: 2 is wrong usage."""

    def refused(*words: str, says: str | Sequence[str] = (), code: int = 1, **more: Any) -> None:
        result = run(*words, **more)
        assert (result.exit_code, result.stdout) == (code, "")
        assert [text for text in ((says,) if isinstance(says, str) else says) if text not in result.stderr] == []

    return refused


@pytest.fixture
def put_state(app: Celery, client: redis.Redis) -> Callable[[str, float], None]:
    """Store a state of `update` in the same place as a worker."""
    installation = installation_of(app)
    assert installation is not None

    def put(key: str, price: float) -> None:
        state = Last()
        state.price = price
        name = Names("partition").states(str(partition_of(key, 4)), update.name)
        client.hset(name, key, installation.group.codec.dump(update.computation, key, state))  # type: ignore[arg-type]

    return put


@pytest.fixture
def add_dead_letter(client: redis.Redis) -> Callable[..., str]:
    """Make one dead letter of a partition; returns its id."""

    def add_dead_letter(partition: str, number: int, reason: str = "bad-key", raw: bytes = b"raw", **more: Any) -> str:
        outcome = Outcome(dead=[(DeadLetterItem(raw, reason, f"error {number}", "the trace", **more), 1)])
        for command in commands_of_outcome(outcome, Names("partition"), partition, number, 5.0):
            client.execute_command(*command)
        return f"{partition}-{number}-0"

    return add_dead_letter
