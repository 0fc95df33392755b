"""A generator, a file and a stream are read exactly once, through `kill -9`: the position is written together with the messages."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from celery_partitions import FileSource
from celery_partitions.sources.file import FileReader
from celery_partitions.sources.leased_source import LeasedSource
from celery_partitions.sources.runner import find_source
from celery_partitions.sources.stop_signal import Stop
from tests.sources.conftest import LiveEnds
from tests.support.wait import wait_until

Make = Callable[..., LiveEnds]

COUNT = 30_000


def queued(live: LiveEnds) -> int:
    return sum(row.length for row in live.group.status())


def messages(live: LiveEnds) -> dict[str, list[tuple[str, Any]]]:
    """The ids and messages in each queue, oldest first."""
    found = {}
    for queue in live.status():
        raws = [json.loads(raw) for raw in reversed(live.client.lrange(queue, 0, -1))]
        found[queue] = [(raw["headers"]["id"], json.loads(base64.b64decode(raw["body"]))[0][0]) for raw in raws]
    return found


def numbers(live: LiveEnds) -> list[int]:
    """The numbers of all messages. Checks that each queue is in order and that no id occurs twice."""
    found = messages(live)
    ids = [message_id for queue in found.values() for message_id, _ in queue]
    assert len(ids) == len(set(ids))
    each = [[m if isinstance(m, int) else m["number"] for _, m in queue] for queue in found.values()]
    assert all(one == sorted(one) for one in each)
    return sorted(number for one in each for number in one)


def kill_midway(live: LiveEnds, name: str, *shares: float) -> None:
    """Kill the source while it reads, each time after the given share of its messages has arrived."""
    for share in shares:
        source = live.start_end("source", name)
        wait_until(lambda share=share: queued(live) > share * COUNT)
        source.kill()
        assert queued(live) < COUNT


def test_a_generator_sends_each_value_once_through_kills(make_ends: Make) -> None:
    live = make_ends(GENERATED=COUNT)
    kill_midway(live, "generated", 0.2, 0.6)
    source = live.start_end("source", "generated")
    assert source.wait() == 0
    assert numbers(live) == list(range(1, COUNT + 1))
    again = live.start_end("source", "generated")
    assert again.wait() == 0
    assert "ended in an earlier run" in again.log()
    assert queued(live) == COUNT


def test_two_processes_of_one_generator_send_each_value_once(make_ends: Make) -> None:
    """The second process waits, and continues where the first one was killed."""
    live = make_ends(GENERATED=10**9, PARTITIONS_QUEUE_MAX_LENGTH=3000)
    first = live.start_end("source", "generated")
    wait_until(lambda: queued(live) > 5000)
    second = live.start_end("source", "generated")
    second.wait_for("waiting to take over")
    first.kill()
    second.wait_for("its stored position")
    before = queued(live)
    live.client.delete(*live.status())  # empties the queues
    wait_until(lambda: queued(live) > 5000)
    assert before <= 12_000
    assert second.end() == 0


def lines(first: int, last: int) -> bytes:
    return b"".join(b'{"key":"key-%d","number":%d}\n' % (number % 7, number) for number in range(first, last + 1))


def test_a_file_is_read_once_through_kills(make_ends: Make, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(lines(1, COUNT) + b"no JSON\n\n" + lines(COUNT + 1, COUNT + 1).strip())
    live = make_ends(SOURCE_FILE=path)
    kill_midway(live, "lines of a file", 0.3)
    source = live.start_end("source", "lines of a file")
    assert source.wait() == 0
    assert numbers(live) == list(range(1, COUNT + 2))
    (dead_letter,) = live.dead_letters()
    assert (dead_letter.reason, dead_letter.task, live.group.dead_letters.raw(dead_letter)) == ("not-decoded", "lines of a file", b"no JSON")
    with path.open("ab") as file:
        file.write(b"\n" + lines(COUNT + 2, COUNT + 5))
    assert live.start_end("source", "lines of a file").wait() == 0
    assert numbers(live) == list(range(1, COUNT + 6))


def test_a_followed_file_waits_for_lines_and_for_a_replacement(make_ends: Make, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    live = make_ends(SOURCE_FILE=path, FOLLOW=1)
    source = live.start_end("source", "lines of a file")
    source.wait_for("waiting for it")
    whole = lines(1, 3)
    with path.open("ab", buffering=0) as file:
        file.write(whole[:-10])
        wait_until(lambda: queued(live) == 2)
        file.write(whole[-10:])
        wait_until(lambda: queued(live) == 3)
        path.rename(tmp_path / "old.jsonl")
        file.write(lines(4, 4))
    path.write_bytes(lines(5, 6))
    wait_until(lambda: queued(live) == 6)
    assert numbers(live) == [1, 2, 3, 4, 5, 6]
    assert source.end() == 0


def test_a_replaced_file_is_read_while_its_writer_still_appends(make_ends: Make, tmp_path: Path) -> None:
    """The path names a new file while the writer still appends to the old one, sometimes half a line."""
    path = tmp_path / "in.jsonl"
    path.write_bytes(lines(1, 1))
    live = make_ends()
    config = FileSource(path, follow=True)
    with closing(Stop()) as stop, path.open("ab", buffering=0) as file:
        computation, _ = find_source("lines of a file")
        reader = FileReader(live.installation, computation, config, stop)
        leased = LeasedSource(live.installation, computation, reader, stop)
        reader.begin(b"", leased.place.take().token)

        def looked() -> bool:
            """Read once. Returns whether there was nothing new."""
            filled = reader.fill(leased.outbox)
            leased.send(ends=False)
            return filled == "wait"

        wait_until(looked)
        path.rename(tmp_path / "old.jsonl")
        path.write_bytes(lines(5, 5))
        assert looked()
        whole = lines(2, 3)
        file.write(whole[:-10])
        assert looked()
        assert queued(live) == 2
        file.write(whole[-10:] + lines(4, 4).strip())
        wait_until(lambda: looked() and queued(live) == 5)
        assert numbers(live) == [1, 2, 3, 4, 5]
        reader.close()


def test_a_stream_is_read_once_through_kills(make_ends: Make) -> None:
    live = make_ends()
    with live.client.pipeline(transaction=False) as pipe:
        for number in range(1, COUNT + 1):
            pipe.xadd("entries in", {"message": json.dumps({"key": f"key-{number % 7}", "number": number})})
        pipe.xadd("entries in", {"other": "field"})
        pipe.execute()
    kill_midway(live, "entries", 0.3)
    source = live.start_end("source", "entries")
    wait_until(lambda: queued(live) == COUNT and live.dead_letters())
    live.client.xadd("entries in", {"message": '{"key": "key-1", "number": 30001}'})
    wait_until(lambda: queued(live) == COUNT + 1)
    assert numbers(live) == list(range(1, COUNT + 2))
    (dead_letter,) = live.dead_letters()
    assert live.group.dead_letters.raw(dead_letter) == b'{"other":"field"}'
    assert live.client.xpending("entries in", "entries")["pending"] == 0
    assert source.end() == 0


def test_a_source_waits_for_an_unreachable_server(make_ends: Make, server_factory: Callable[..., Any]) -> None:
    server = server_factory(appendonly=True, appendfsync="always")
    live = make_ends(server.url(), GENERATED=50_000)
    source = live.start_end("source", "generated")
    wait_until(lambda: queued(live) > 1000)
    server.kill()
    source.wait_for("reading is paused until Redis works again")
    server.start()
    source.wait_for("Redis works again; reading continues")
    assert source.wait() == 0
    assert numbers(live) == list(range(1, 50_001))


@pytest.mark.parametrize("follow", [False, True], ids=["read to its end", "followed"])
@pytest.mark.parametrize("count", [2, 200], ids=["a short file", "one that is longer than its fingerprint"])
def test_a_new_file_with_the_inode_of_a_deleted_one_is_read_from_its_beginning(make_ends: Make, tmp_path: Path, count: int, follow: bool) -> None:
    """Between two runs. Writing over a file keeps its inode, as a file system may do when the file is deleted and created."""
    path = tmp_path / "in.jsonl"
    live = make_ends()
    computation, _ = find_source("lines of a file")

    def run() -> FileReader:
        with closing(Stop()) as stop:
            reader = FileReader(live.installation, computation, FileSource(path, follow=follow), stop)
            leased = LeasedSource(live.installation, computation, reader, stop)
            hold = leased.place.take()
            reader.begin(hold.position, hold.token)
            while reader.fill(leased.outbox) not in ("wait", "done"):
                leased.send(ends=False)
            leased.send(ends=False)
            leased.place.leave()
            reader.close()
            return reader

    path.write_bytes(lines(1, count))
    assert run().place.generation == 0
    assert run().place.generation == 0
    with path.open("ab") as file:
        file.write(lines(count + 1, count + 1))
    inode = run().place.inode
    assert numbers(live) == list(range(1, count + 2))
    path.write_bytes(lines(1001, 1000 + 2 * count))
    again = run().place
    assert (again.inode, again.generation) == (inode, 1)
    assert run().place.generation == 1
    assert numbers(live) == [*range(1, count + 2), *range(1001, 1001 + 2 * count)]
