"""On a live group: all keys of a partition are in one cluster slot, and no script touches a key that is not in its KEYS."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest
import redis
from redis.crc import key_slot

from celery_partitions import partition_of
from celery_partitions.admin.pause import pause, resume
from celery_partitions.model.own_lines import own_line
from celery_partitions.model.policy import PolicyChange
from celery_partitions.store.names import partitions_and_ingress
from celery_partitions.store.scripts import script
from celery_partitions.store.sources import hold_source, push_from_source
from tests.chaos.acts import ALWAYS, Act
from tests.chaos.application import play, play_on, play_once
from tests.fundamentals.live import LiveGroup
from tests.support.wait import wait_until

SCRIPTS = {path.name.removesuffix(".lua"): path.read_text() for path in resources.files("celery_partitions.store").joinpath("lua").iterdir()}
#: The number of keys among a command's operands, if it is not one.
KEYS_OF = {"TIME": 0, "PUBLISH": 0, "LMOVE": 2, "RENAME": 2}
#: Where the messages of `play on` wait, which holds up only itself.
STUCK = own_line("stuck", play_on.computation.line)
#: All kinds of keys of partitions and of the group: the last part of the key's name.
KINDS = (
    "meta", "state:play", "delayed", "parked", "parked:due", f"mailbox:{STUCK}", "dead", "isolation", "commits", "seen:young:play once",
    "group", "workers", "owners", "since", "policies", "audit", "measurements", "source:numbers",
    "computations", "reports", "reads", "tasks", "history:fine", "history:coarse", "history:fine:play", "history:coarse:play", "timelines", "timelines:order",
)  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_script_builds_the_name_of_a_key(name: str) -> None:
    assert not re.search(r"KEYS\[[^\]]*\]\s*\.\.|\.\.\s*KEYS", SCRIPTS[name])


class Monitor:
    """Records the commands that a server executes, and the keys that each of our scripts touches."""

    def __init__(self, client: redis.Redis) -> None:
        self.touched: set[tuple[str, str]] = set()
        self.undeclared: list[str] = []
        self.slots: dict[str, int] = {}
        self._names = {script(name).digest: name for name in SCRIPTS}
        self._connection = client.connection_pool.get_connection()
        self._connection.send_command("MONITOR")
        self._connection.read_response()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        running, declared = "", set[str]()
        while True:
            try:
                line = self._connection.read_response(timeout=None).decode("utf-8", "replace")
            except (redis.RedisError, OSError, ValueError, AttributeError):
                return
            words = [re.sub(r"\\(.)", r"\1", word) for word in re.findall(r'"((?:[^"\\]|\\.)*)"', line)]
            if " lua] " in line:
                for key in words[1 : 1 + KEYS_OF.get(words[0].upper(), 1)]:
                    self.touched.add((running, key))
                    if key not in declared:
                        self.undeclared.append(f"{running}: {' '.join(words[:3])}")
            elif words and words[0].upper() in ("EVALSHA", "EVAL"):
                running = self._names.get(words[1], "EVAL")
                declared = set(words[3 : 3 + int(words[2])])
                self.slots[running] = max(self.slots.get(running, 0), len({key_slot(key.encode()) for key in declared}))

    def close(self) -> None:
        self._connection.disconnect()
        self._thread.join(timeout=60)


@pytest.fixture
def live(redis_url: str, tmp_path: Path) -> Iterator[LiveGroup]:
    with LiveGroup(redis_url, tmp_path, PARTITIONS=2, PARTITIONS_LEASE_SECONDS=2, PARTITIONS_MAX_WORKER_CRASHES=2, PARTITIONS_TIMELINE_BYTES=1_000_000) as live:
        yield live
        live.print_logs()


def test_a_live_group(live: LiveGroup) -> None:
    monitor = Monitor(live.client)
    names, partition = live.names, str(partition_of("stuck", 2))
    live.start_worker(module="tests.chaos.application").wait_ready()
    live.send(play, [Act("fine", 1), Act("gone", 1, raises=ALWAYS), Act("fine", 2, kills=True), Act("fine", 3)])
    for _ in range(2):
        wait_until(lambda: not live.workers[-1].running, 60, message="the worker was not killed")
        live.start_worker(module="tests.chaos.application")
    wait_until(lambda: not live.workers[-1].running, 60, message="the third worker was not killed")
    for _ in range(2):
        live.start_worker(module="tests.chaos.application").wait_ready()
    live.send(play_on, [Act("stuck", number, raises=ALWAYS) for number in range(3)])
    live.send(play_once, [Act("once", 1)])
    live.app.send_task("play", args=[{"key": "stuck", "number": 7}], countdown=3600)
    live.client.lpush(f"{names.queue(partition)}\x06\x163", b"no message")
    token = hold_source(live.client, names, "numbers", "me", 60.0).token
    assert push_from_source(live.client, names.source("numbers"), token, 0, b"1", [["LPUSH", "elsewhere", b"x"]]) == ("ok", "")
    pause(live.client, names, ["0"], by="me")
    resume(live.client, names, ["0"], by="me")
    live.group.policies.change("play", PolicyChange(attempts=1), by="me")
    wait_until(lambda: not missing(live, monitor), 60, message="not every kind of key was used")
    check_slots(live)
    wait_until(lambda: live.numbers_of(play, "fine") == [1, 3], 60, message="the other messages were not applied")
    live.group.states.forget(play.computation, "fine")
    live.group.dead_letters.retry([one for one in live.dead_letters() if one.key == "gone"], by="me")
    live.group.parked_keys.discard(STUCK, by="me")
    for one in live.workers:
        if one.running:
            one.terminate()
            one.wait()
    check_slots(live)
    monitor.close()
    assert monitor.undeclared == []
    ran = {name for name, _ in monitor.touched}
    assert {"balance", "claim", "look_at_held", "commit", "begin_isolated_try", "release", "unassign", "measure", "add_points"} <= ran
    of_one_slot = ran & {"balance", "claim", "release", "unassign", "begin_isolated_try", "forget", "retry_dead_letter"}
    assert {name: monitor.slots[name] for name in of_one_slot} == dict.fromkeys(of_one_slot, 1)
    assert not missing(live, monitor)


def kind_of(key: bytes) -> str:
    return key.decode().partition("}:")[2]


def missing(live: LiveGroup, monitor: Monitor) -> set[str]:
    """The kinds of keys that were neither found nor touched by a script. (Notes of isolated messages exist only for a moment.)"""
    there = {kind_of(key) for key in live.client.scan_iter()} | {kind_of(key.encode()) for _, key in list(monitor.touched)}
    return set(KINDS) - there


def check_slots(live: LiveGroup) -> None:
    """Check that each key belongs to one of the group's partitions and is in the slot of its queue."""
    slots = {live.names.queue(one): key_slot(live.names.queue(one).encode()) for one in partitions_and_ingress(2)}
    others = []
    for key in live.client.scan_iter():
        tag = key.decode().partition("}:")[0].removeprefix("{")
        if live.names.owns(key) and b"\x06" not in key:
            assert key_slot(key) == slots[tag], key
        else:
            others.append(key)
    assert not [key for key in others if b"partition" in key and b"\x06" not in key and not key.startswith(b"_kombu")], others
