"""Sinks outside Redis: outputs arrive at least once, in order per key, and none is lost while a sink is unreachable."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from celery_partitions.cli.commands import partitions
from celery_partitions_config.settings import Settings
from tests.producer.conftest import MakeApp
from tests.sources.conftest import LiveEnds
from tests.sources.test_tcp import pairs
from tests.support.applications import ends
from tests.support.tcp import Receiver, framed, sender
from tests.support.wait import wait_until
from tests.support.worker import ROOT

Make = Callable[..., LiveEnds]


def numbered(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"key": f"key-{number % 3}", "number": number, **more} for number in range(count)]


def waiting_for(live: LiveEnds, sink: str) -> int:
    return int(live.client.llen(f"partition.sink.{sink}.0"))


def first_seen(frames: list[bytes]) -> dict[str, list[int]]:
    """The numbers of each key, in order of their first arrival."""
    seen: dict[str, dict[int, None]] = defaultdict(dict)
    for frame in frames:
        key, number, _ = json.loads(frame)
        seen[key].setdefault(number)
    return {key: list(numbers) for key, numbers in seen.items()}


# TCP


def test_the_sink_waits_for_an_unreachable_tcp_peer(make_ends: Make) -> None:
    live = make_ends()
    live.start_worker()
    _, port = live.start_listening()
    sink = live.start_end("sink", "out")
    sink.wait_for("ready.")
    receiver = Receiver(live.sink_port)
    with sender(port) as connection:
        for start in range(0, 3000, 1000):
            connection.sendall(pairs(range(start, start + 1000)))
            if not start:
                sink.wait_for("cannot write to")
            wait_until(lambda start=start: waiting_for(live, "out") == 1000)
            with receiver:
                wait_until(lambda start=start: waiting_for(live, "out") == 0 and len(receiver.frames) == start + 1000)
    assert first_seen(receiver.frames) == {f"key-{key}": list(range(key, 3000, 5)) for key in range(5)}
    assert 1 <= sink.log().count("cannot write to") <= 3  # logged once, however often it retries
    assert not list(live.group.dead_letters.all())
    assert sink.end() == 0


def test_a_new_connection_starts_at_a_message_boundary(make_ends: Make) -> None:
    """Data that the peer's system received and the peer did not read is lost: TCP does not report it. The rest arrives in order."""
    live = make_ends(PARTITIONS_BATCH_MESSAGES=200)
    live.start_worker()
    _, port = live.start_listening()
    live.start_end("sink", "out")
    receiver = Receiver(live.sink_port)
    with sender(port) as connection:
        connection.sendall(pairs(range(30_000)))
        for enough in (2000, 10_000):
            with receiver:
                wait_until(lambda enough=enough: len(receiver.frames) > enough)
        with receiver:
            wait_until(lambda: waiting_for(live, "out") == 0 and sum(row.length for row in live.group.status()) == 0)
    for frames in receiver.connections:
        seen = [json.loads(frame)[1] for frame in frames if b'"key-0"' in frame]
        assert seen == list(range(seen[0], seen[-1] + 1, 5))


def test_a_peer_that_does_not_read_blocks_its_sink_and_sigterm_ends_it(make_ends: Make) -> None:
    live = make_ends()
    live.start_worker()
    _, port = live.start_listening()
    sink = live.start_end("sink", "out")
    with socket.create_server(("127.0.0.1", live.sink_port)) as listener, sender(port) as connection:
        connection.sendall(framed(*(f"{'k' * 1000} {number}" for number in range(15_000))))
        silent, _ = listener.accept()
        with silent:
            wait_until(lambda: sum(row.length for row in live.group.status()) == 0)
            assert sink.end() == 0
            assert waiting_for(live, "out") > 0


def test_a_second_sink_process_takes_over_after_a_kill(make_ends: Make) -> None:
    live = make_ends(PARTITIONS_BATCH_MESSAGES=50)
    live.start_worker()
    with Receiver(live.sink_port) as receiver:
        first = live.start_end("sink", "out")
        first.wait_for("out.0")
        second = live.start_end("sink", "out")
        second.wait_for("ready.")
        _, port = live.start_listening()
        with sender(port) as connection:
            connection.sendall(pairs(range(20_000)))
            wait_until(lambda: len(receiver.frames) > 1000)
            assert len(receiver.connections) == 1
            first.kill()
            wait_until(lambda: sum(map(len, first_seen(receiver.frames).values())) == 20_000 and waiting_for(live, "out") == 0)
    assert first_seen(receiver.frames) == {f"key-{key}": list(range(key, 20_000, 5)) for key in range(5)}
    assert len(receiver.connections) == 2
    assert second.end() == 0


# A function, a file, standard output


def test_outputs_reach_a_function_a_file_and_standard_output(make_ends: Make, command: Run, tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    file.write_bytes(b'{"torn by a cra')
    live = make_ends(SINK_FILE=file)
    live.start_worker()
    sinks = [live.start_end("sink", name) for name in ("call", "file", "stdout")]
    messages = numbered(300)
    failing = {"key": "key-1", "number": -1, "fails": True}
    live.send_plain([*messages[:100], failing, *messages[100:]])
    wait_until(lambda: live.client.llen(ends.CALLED) == 200 + 33 and sinks[2].out().count("\n") == 301 and file.read_bytes().count(b"\n") == 302)

    called = [json.loads(line) for line in live.client.lrange(ends.CALLED, 0, -1)]
    assert all(key == context_key for key, _, context_key, _ in called)
    assert len({message_id for *_, message_id in called}) == len(called)
    assert [number for key, number, *_ in called if key != "key-1"] == [number for number in range(300) if number % 3 != 1]
    # A failure holds up only its own key, as in any partition. `partitions --sink call parked` shows it.
    assert [number for key, number, *_ in called if key == "key-1"] == list(range(1, 100, 3))
    # The function is called before the commit that parks its key.
    parked = wait_until(lambda: json.loads(command("--sink", "call", "keys", "call", "--parked", "--json")))
    assert [row["key"] for row in parked] == ["key-1"]

    everything = [*messages[:100], failing, *messages[100:]]
    torn, *written = file.read_bytes().splitlines()
    assert torn == b'{"torn by a cra'
    assert by_key(map(json.loads, written)) == by_key(everything)
    assert [sink.end() for sink in sinks] == [0, 0, 0]
    assert by_key(map(json.loads, sinks[2].out().splitlines())) == by_key(everything)


def test_a_function_gets_values_that_json_cannot_represent(make_ends: Make) -> None:
    live = make_ends(PARTITIONS_STATE_SIGNING_KEY="a key of at least sixteen characters")
    live.start_worker()
    live.start_end("sink", "call")
    live.send_plain([{"key": "a", "number": 7, "as_pair": True}])
    (called,) = wait_until(lambda: live.client.lrange(ends.CALLED, 0, -1))
    assert json.loads(called)[:3] == ["a pair", 7, "a"]


def by_key(messages: Any) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for message in messages:
        found[message["key"]].append(message["number"])
    return dict(found)


def test_closing_standard_output_ends_the_process_and_loses_nothing(make_ends: Make) -> None:
    live = make_ends()
    live.start_worker()
    live.send_plain(numbered(3))
    wait_until(lambda: waiting_for(live, "stdout") == 3)
    words = [sys.executable, "-m", "celery", "-A", ends.__name__, "partitions", "sink", "stdout"]
    environment = {**os.environ, **live.env, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, cwd=live.directory, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert len([process.stdout.readline() for _ in range(3)]) == 3
            process.stdout.close()
            live.send_plain(numbered(1))
            assert process.wait(60) == 0
        finally:
            process.kill()
    assert waiting_for(live, "stdout") == 1


# What an operator sees.


Run = Callable[..., str]


@pytest.fixture
def command(make_app: MakeApp, settings: Settings) -> Run:
    """Run `celery -A … partitions WORDS`. Returns its standard output, or its error if the expected exit code is not 0."""
    app = make_app(settings.redis_url, settings)

    def run(*words: str, wanted: int = 0) -> str:
        done = CliRunner().invoke(partitions, words, obj=SimpleNamespace(app=app))
        assert done.exit_code == wanted, done.stderr
        return done.stderr if wanted else done.stdout

    return run


def test_commands_work_on_a_sinks_group(make_ends: Make, command: Run) -> None:
    live = make_ends()
    live.start_worker()
    live.send_plain(numbered(5))
    wait_until(lambda: waiting_for(live, "call") == 5)
    rows = {row["queue"]: row["length"] for row in json.loads(command("--sink", "call", "status", "--json"))}
    assert rows == {"partition.sink.call.0": 5, "partition.sink.call": 0}
    assert "partition.sink.call.0" in command("--sink", "call", "top", "--interval", "0.1")
    command("--sink", "call", "pause", "0")
    sink = live.start_end("sink", "call")
    sink.wait_for("ready.")
    command("--sink", "call", "resume", "0")
    wait_until(lambda: live.client.llen(ends.CALLED) == 5)
    assert sink.end() == 0


def test_the_error_of_an_unknown_name_lists_the_known_ones(command: Run) -> None:
    for name in ("call", "file", "out", "stdout"):
        assert repr(name) in command("sink", "nothing", wanted=1).partition("sinks with a process:")[2]
    assert "needs no process" in command("sink", "lines read", wanted=1)
    assert "'frames'" in command("source", "nothing", wanted=1)
    assert "Send to it with" in command("source", "sent to ends", wanted=1)
    assert "sinks with a process" in command("--sink", "nothing", "status", wanted=1)
