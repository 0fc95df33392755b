"""What operators see and do in a pipeline: states, policies, parked keys, dead letters, export and import."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from celery_partitions.admin.pause import pause, resume
from celery_partitions.cli.commands import partitions
from celery_partitions.model.errors import KeyExtractionError
from celery_partitions.runtime.registry import _installations
from tests.fundamentals.live import PATIENCE_SECONDS
from tests.model.build import raw_message
from tests.pipeline.conftest import LivePipelines
from tests.support.applications import orders
from tests.support.applications.orders import Order
from tests.support.wait import wait_until
from tests.support.worker import WorkerProcess

Run = Callable[..., Result]
ENV = {"PARTITIONS": 4, "PARTITIONS_LEASE_SECONDS": 2, "PARTITIONS_RETRY_BACKOFF_SECONDS": 0.2}


class Orders(LivePipelines):
    """A group whose workers run the pipeline `orders`, and the command line of its operator."""

    def start(self) -> WorkerProcess:
        worker: WorkerProcess = self.start_worker(module=orders.__name__)
        return worker

    def run(self, *words: str) -> Result:
        self.app.finalize(auto=True)
        _installations.append(self.installation)
        try:
            result = CliRunner().invoke(partitions, words, obj=SimpleNamespace(app=self.app))
        finally:
            _installations.remove(self.installation)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def json_of(self, *words: str) -> Any:
        result = self.run(*words, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def order(self, customer: str, item: str, amount: int) -> None:
        self.feed(orders.orders, [Order(customer, item, amount)])

    def raw(self, customer: str, item: str, amount: int, message_id: str) -> bytes:
        return raw_message("orders in", {"customer": customer, "item": item, "amount": amount}, message_id)

    def push(self, *raws: bytes) -> None:
        """Push as a producer that cannot compute the key."""
        self.client.lpush("partition", *raws)

    def tallied(self) -> list[Any]:
        return [json.loads(fields[b"message"]) for _, fields in self.client.xrange("tallied")]

    def ids(self) -> list[bytes]:
        return [fields[b"id"] for _, fields in self.client.xrange("tallied")]

    def trouble(self, stage: str, is_on: bool = True) -> None:
        if is_on:
            self.client.set(f"trouble at {stage}", 1)
        else:
            self.client.delete(f"trouble at {stage}")

    def wait(self, condition: Callable[[], object], message: str) -> None:
        wait_until(condition, PATIENCE_SECONDS, message=message)


@pytest.fixture
def make_orders(redis_url: str, tmp_path: Path) -> Iterator[Callable[..., Orders]]:
    with ExitStack() as stack:

        def make(**env: object) -> Orders:
            live = stack.enter_context(Orders(redis_url, tmp_path, **{**ENV, **env}))
            stack.callback(live.print_logs)
            return live

        yield make


def test_states_policies_parked_keys_and_dead_letters_of_stages(make_orders: Callable[..., Orders]) -> None:
    live = make_orders()
    live.start()
    live.order("ann", "tea", 3)
    live.order("bob", "tea", 4)
    live.wait(lambda: len(live.tallied()) == 2, "no output")

    # Each stage has states under its own keys.
    assert live.json_of("state", "get", "tally", "tea")["state"] == {"amount": 7}
    assert live.json_of("state", "get", "check", "ann")["state"] == {"amount": 3}
    assert live.run("keys", "tally").stdout.split() == ["tea"]
    assert sorted(live.run("keys", "check").stdout.split()) == ["ann", "bob"]
    assert live.run("state", "set", "tally", "tea", '{"amount": 100}', "--yes").exit_code == 0
    live.order("ann", "tea", 1)
    live.wait(lambda: live.tallied()[-1] == ["tea", 101], "the state was not set")
    assert live.run("state", "get", "totals", "tea").exit_code == 0
    refused = live.run("state", "get", "orders in", "ann")
    assert refused.exit_code == 1 and "'orders in' has no state" in refused.stderr

    # A dead letter of a hop: after a retry its output is sent once, with the id that it would have had.
    live.trouble("tally")
    live.order("ann", "milk", 5)
    live.wait(live.dead_letters, "no dead letter")
    (dead_letter,) = live.dead_letters()
    assert (dead_letter.task, dead_letter.key, dead_letter.reason, dead_letter.attempts) == ("tally", "milk", "computation-failed", 1)
    assert dead_letter.message_id is not None and dead_letter.message_id.endswith(":0")
    live.trouble("tally", is_on=False)
    assert live.run("dead-letters", "retry", dead_letter.id).exit_code == 0
    live.wait(lambda: live.tallied()[-1] == ["milk", 5], "the dead letter was not retried")
    assert live.ids()[-1] == f"{dead_letter.message_id}:0".encode() and not live.dead_letters()

    # A source drops duplicates, but its dead letters can be retried. Their task is the source's name.
    raw = live.raw("ann", "milk", 7, "an id")
    live.push(raw, raw)
    live.wait(lambda: live.tallied()[-1] == ["milk", 12], "no output")
    live.trouble("check")
    live.push(live.raw("ann", "milk", 1, "another"))
    live.wait(live.dead_letters, "no dead letter")
    (dead_letter,) = live.dead_letters()
    assert (dead_letter.task, dead_letter.message_id, dead_letter.key) == ("orders in", "another", "ann") and "check fails on purpose" in dead_letter.error
    live.trouble("check", is_on=False)
    assert live.run("dead-letters", "retry", dead_letter.id).exit_code == 0
    live.wait(lambda: live.tallied()[-1] == ["milk", 13], "the dead letter was not retried")
    live.push(live.raw("ann", "milk", 1, "another"))
    live.wait_drained()
    assert [amount for _, amount in live.tallied()][1:] == [7, 101, 5, 12, 13]

    # A stage's policy is changed while the worker runs: its key is held, and retried in its place.
    assert live.json_of("policy", "check", "--exhausted", "hold")["policy"]["exhausted"] == "hold"
    live.wait(lambda: "changed the policy of 'check'" in live.workers[0].log(), "the worker does not follow")
    live.trouble("check")
    for amount in (1, 2):
        live.order("bob", "milk", amount)
    live.wait(lambda: live.json_of("parked", "list")[:1], "nothing is held")
    live.wait(lambda: live.json_of("parked", "list")[0]["waiting"] == 2, "the second message does not wait")
    (held,) = live.json_of("parked", "list")
    assert (held["key"], held["held"]) == ("bob", True) and "check fails on purpose" in held["error"]
    assert live.json_of("state", "get", "check", "bob")["state"] == {"amount": 4}
    live.trouble("check", is_on=False)
    assert live.run("parked", "retry", "bob").exit_code == 0
    live.wait(lambda: live.tallied()[-2:] == [["milk", 14], ["milk", 16]], "the held messages did not come")
    assert live.json_of("state", "get", "check", "bob")["state"] == {"amount": 7}
    assert len(set(live.ids())) == len(live.ids()) == 8


@pytest.mark.parametrize("partitions_after", [4, 3])
def test_hops_and_timers_pass_an_export_and_import(
    make_orders: Callable[..., Orders], tmp_path: Path, partitions_after: int
) -> None:
    """Messages between stages wait in queues, and a timer is set. Everything continues in a group with the same N or another one."""
    live = make_orders()
    worker = live.start()
    live.order("ann", "tea", 1)
    live.wait(lambda: live.tallied() == [["tea", 1]], "no output")
    # Only its first stage continues: the second stage's key is in a paused partition.
    partition = _partition(live, "tea")
    pause(live.client, live.names, [partition], by="me")
    customers = [f"customer {number}" for number in range(40)]
    customers = [one for one in customers if _partition(live, one) != partition][:6]
    for number, one in enumerate(customers):
        live.order(one, "tea", 10**number)
    live.wait(lambda: live.status()[f"partition.{partition}"].length == 6, "the hops did not come")
    worker.terminate()
    worker.wait()
    resume(live.client, live.names, [partition], by="me")
    file = tmp_path / "export"
    assert len(live.json_of("export", str(file), "--yes")["paused"]) == 5  # the partitions of a pipeline are paused together
    after = make_orders(PARTITIONS=partitions_after)
    result = after.run("import", str(file), "--replace", "--yes")
    assert result.exit_code == 0, result.output
    assert "this app cannot compute their key" not in result.output
    assert sum(row.length for row in after.group.status()) == 6
    assert after.status()[f"partition.{_partition(after, 'tea')}"].length == 6
    after.start()
    after.wait(lambda: len(after.tallied()) == 7, "the hops were lost")
    assert [amount for _, amount in after.tallied()][-1] == 1 + 111_111
    assert len(set(after.ids())) == 7
    after.wait_drained()
    gathered = [one for element in after.client.lrange("totals", 0, -1)[::-1] for one in json.loads(element)[1]]
    assert gathered == after.tallied()


def _partition(live: Orders, key: str) -> str:
    return str(live.installation.group.topology.partition_of(key))


# Messages to stages from outside.


def test_a_python_producer_cannot_send_to_a_stage(make_orders: Callable[..., Orders]) -> None:
    live = make_orders()
    with pytest.raises(KeyExtractionError, match="'tally' is a stage of a pipeline, because it has no key"):
        live.send_task("tally", {"customer": "ann", "item": "tea", "amount": 1})
    refused = live.run("keys", "unknown")
    assert refused.exit_code == 1 and "'tally'" in refused.stderr


GARBAGE: list[Any] = [None, 7, 1.5, True, [], ["tea"], {}, {"base64": 7}, {"base64": "*"}, {"base64": "é"}, {"a": 1}, "k" * 5000]


def test_messages_to_a_stage_without_a_key_are_dead_letters_in_every_queue(make_orders: Callable[..., Orders]) -> None:
    live = make_orders()
    order = {"customer": "ann", "item": "tea", "amount": 1}
    wanted = set()
    for place in ("partition", "partition.0"):
        for number, key in enumerate(GARBAGE):
            headers = {} if key is None else {"partition_key": key}
            live.client.lpush(place, raw_message("tally", order, f"{place} {number}", **headers))
            wanted.add(f"{place} {number}")
    good = [
        raw_message("tally", order, "text", partition_key="tea", event_time="yesterday", timer=[1], root_id=7, sent_at="x"),
        raw_message("tally", order, "huge", partition_key={"base64": "dGVh"}, event_time=1e300, timer=10**40, sent_at=10**30),
    ]
    for raw in good:
        live.client.lpush("partition", raw)
    live.start()
    live.wait(lambda: len(live.tallied()) == 2 and len(live.dead_letters()) == len(wanted), "not all were taken")
    assert {dead_letter.message_id for dead_letter in live.dead_letters()} == wanted
    for dead_letter in live.dead_letters():
        assert dead_letter.reason == "bad-key" and ("is a stage of pipeline orders" in dead_letter.error or "key" in dead_letter.error)
    assert live.json_of("state", "get", "tally", "tea")["state"] == {"amount": 2}
    live.wait_drained()
