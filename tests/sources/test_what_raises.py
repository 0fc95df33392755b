"""A message that raises while a source reads it becomes a dead letter. Messages before and after it are unaffected."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from celery_partitions import FileSource, GenSourceConfig, RedisList, StreamSource, build_application, source
from celery_partitions.sources.file import FileReader
from celery_partitions.sources.leased_source import LeasedSource
from celery_partitions.sources.runner import find_source, run_leased
from celery_partitions.sources.stop_signal import EndAtOnce, Stop
from celery_partitions.sources.stream import StreamReader
from tests.sources.conftest import LiveEnds
from tests.sources.test_read_again import numbers, queued
from tests.support.wait import wait_until

Make = Callable[..., LiveEnds]

#: Deeper than the JSON decoder's limit.
# Deeper than any Python's limit: that of 3.13 is about 10,000 levels.
NESTED = "[" * 100_000


@dataclass
class Exiting:
    number: int

    def __post_init__(self) -> None:
        if self.number == 2:
            sys.exit("a message that wants the process to end")


def key_of_exiting(message: Exiting) -> str:
    return str(message.number)


exiting_file = FileSource("set by the test")
exiting = source("lines that exit", exiting_file)
build_application("what exits", exiting.key_by(key_of_exiting).to_sink(RedisList("exited")))


class Unshown:
    """Cannot be sent without a signing key, and its repr raises."""

    def __repr__(self) -> str:
        raise ZeroDivisionError


class Values:
    def initial_value(self) -> Any:
        return 1

    def apply(self, value: Any) -> Any:
        if value == 2:
            return None
        return Unshown() if value == 1 else 2


def key_of_value(value: Any) -> str:
    return str(value)


generated = source("values that can't be shown", GenSourceConfig(Values))
build_application("what can't be shown", generated.key_by(key_of_value).to_sink(RedisList("shown")))


def key_or_interrupt(entry: dict[str, Any]) -> str:
    if entry["text"] == "interrupt":
        raise KeyboardInterrupt
    return str(entry["text"])


interrupted = source("entries that interrupt", StreamSource("interrupting"))
build_application("what interrupts", interrupted.key_by(key_or_interrupt).to_sink(RedisList("not interrupted")))


@pytest.fixture
def stop() -> Iterator[Stop]:
    with closing(Stop()) as stop:
        yield stop


def test_a_too_deeply_nested_entry_becomes_a_dead_letter_and_the_stream_continues(make_ends: Make) -> None:
    live = make_ends()
    for number in range(1, 11):
        live.client.xadd("entries in", {"message": f'{{"key":"k","number":{number}}}'})
    live.client.xadd("entries in", {"message": NESTED})
    live.client.xadd("entries in", {"message": '{"key":"k","number":11}'})
    source = live.start_end("source", "entries")
    wait_until(lambda: queued(live) == 11)
    assert source.end() == 0
    again = live.start_end("source", "entries")
    live.client.xadd("entries in", {"message": '{"key":"k","number":12}'})
    wait_until(lambda: queued(live) == 12)
    assert again.end() == 0
    assert numbers(live) == list(range(1, 13))
    (dead_letter,) = live.dead_letters()
    assert (dead_letter.reason, live.group.dead_letters.raw(dead_letter)) == ("not-decoded", b'{"message":"%b"}' % NESTED.encode())
    assert "RecursionError" in dead_letter.error
    assert live.client.xpending("entries in", "entries")["pending"] == 0


def test_entries_read_before_an_exception_are_sent_and_acknowledged(make_ends: Make, stop: Stop) -> None:
    live = make_ends()
    for text in ("one", "interrupt", "two"):
        live.client.xadd("interrupting", {"text": text})
    computation, config = find_source("entries that interrupt")
    assert isinstance(config, StreamSource)
    leased = LeasedSource(live.installation, computation, StreamReader(live.installation, computation, config, stop), stop)
    hold = leased.place.take()
    leased.reader.begin(hold.position, hold.token)
    assert leased.reader.fill(leased.outbox) == "more"  # nothing was read before, so these are new entries
    with pytest.raises(KeyboardInterrupt):
        leased.reader.fill(leased.outbox)
    leased.send(ends=False)
    assert queued(live) == 1
    first, *_ = [entry_id for entry_id, _ in live.client.xrange("interrupting")]
    assert leased.reader.position() == first
    assert live.client.xpending("interrupting", "entries that interrupt")["pending"] == 2


def test_a_message_class_that_raises_system_exit_causes_a_dead_letter(make_ends: Make, stop: Stop, tmp_path: Path) -> None:
    live = make_ends()
    exiting_file.path = tmp_path / "in.jsonl"
    exiting_file.path.write_text('{"number":1}\n{"number":2}\n{"number":3}\n' + NESTED + '\n{"number":4}\n')
    run_leased(live.installation, *find_source("lines that exit"), stop)
    assert numbers(live) == [1, 3, 4]
    dead_letters = {dead_letter.reason: dead_letter for dead_letter in live.dead_letters()}
    assert {reason: live.group.dead_letters.raw(dead_letter) for reason, dead_letter in dead_letters.items()} == {
        "unforeseen": b'{"number":2}',
        "not-decoded": NESTED.encode(),
    }


def test_a_value_whose_repr_raises_becomes_a_dead_letter_and_the_generator_continues(make_ends: Make, stop: Stop) -> None:
    live = make_ends()
    run_leased(live.installation, *find_source("values that can't be shown"), stop)
    assert numbers(live) == [1, 2]
    (dead_letter,) = live.dead_letters()
    assert live.group.dead_letters.raw(dead_letter) == b"a Unshown, whose __repr__ raises ZeroDivisionError"


def test_a_second_signal_during_a_message_does_not_lose_it(
    make_ends: Make, tmp_path: Path
) -> None:
    """An exception raised by the message's class blames the message, but an exception raised by a signal does not."""
    live, path = make_ends(), tmp_path / "in.jsonl"
    path.write_text('{"key":"k","number":1}\n{"key":"k","number":2}\n')
    computation, _ = find_source("lines of a file")

    def begin(reader: FileReader, stop: Stop) -> LeasedSource:
        leased = LeasedSource(live.installation, computation, reader, stop)
        hold = leased.place.take()
        reader.begin(hold.position, hold.token)
        return leased

    def reading(decoder: Callable[[bytes], Any] | None, stop: Stop) -> FileReader:
        return FileReader(live.installation, computation, FileSource(path, decoder=decoder), stop)

    with closing(Stop()) as stop:

        def decode(line: bytes) -> Any:
            if b"2" in line:
                for _ in range(2):
                    stop._on_signal(signal.SIGTERM, None)
            return json.loads(line)

        with closing(reading(decode, stop)) as reader:
            leased = begin(reader, stop)
            with pytest.raises(EndAtOnce) as caught:
                reader.fill(leased.outbox)
        assert caught.value.code == 128 + signal.SIGTERM
        leased.send(ends=False)
        leased.place.leave()
    with closing(Stop()) as stop, closing(reading(None, stop)) as reader:
        again = begin(reader, stop)
        reader.fill(again.outbox)
        again.send(ends=False)
    assert numbers(live) == [1, 2] and live.dead_letters() == []
