"""The TCP source: turns frames into messages on the partition queues, in order, and loses no input silently."""

from __future__ import annotations

import json
import socket
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

from tests.sources.conftest import LiveEnds
from tests.support.tcp import Receiver, framed, sender
from tests.support.wait import wait_until

Make = Callable[..., LiveEnds]


def queued(live: LiveEnds) -> int:
    return sum(row.length for row in live.group.status())


def pairs(numbers: Iterable[int]) -> bytes:
    return framed(*(f"key-{number % 5} {number}" for number in numbers))


def received(receiver: Receiver) -> dict[str, list[list[int]]]:
    """The number and count of each key, in order of arrival."""
    seen: dict[str, list[list[int]]] = defaultdict(list)
    for frame in receiver.frames:
        key, number, count = json.loads(frame)
        seen[key].append([number, count])
    return seen


def counted(numbers: int) -> dict[str, list[list[int]]]:
    return {f"key-{key}": [[number, at] for at, number in enumerate(range(key, numbers, 5), 1)] for key in range(5)}


def test_frames_go_through_a_pipeline_to_a_tcp_sink_in_order(make_ends: Make) -> None:
    """The first connection is sent completely before the second is opened: its messages come first, even if they are not read yet."""
    live = make_ends()
    with Receiver(live.sink_port) as receiver:
        live.start_worker()
        live.start_end("sink", "out")
        source, port = live.start_listening()
        with ExitStack() as open_connections:
            for start in range(0, 20_000, 5000):
                connection = open_connections.enter_context(sender(port))
                connection.sendall(pairs(range(start, start + 5000)))
            wait_until(lambda: len(receiver.frames) >= 20_000, 60)
    assert received(receiver) == counted(20_000)
    assert source.end() == 0


def test_invalid_input_becomes_a_dead_letter_and_the_connection_continues(make_ends: Make) -> None:
    live = make_ends(PARTITIONS_MESSAGE_BYTES=10_000)
    source, port = live.start_listening()
    good, long = pairs([1]), framed("x" * 10_001)
    with sender(port) as connection:
        connection.sendall(good + framed("undecodable", "nothing", "keyless 5") + pairs([2]) + long + pairs([3]))
        assert connection.recv(1) == b""  # after such a length, the start of the next frame is unknown
    source.wait_for("closing the connection from")
    with sender(port) as connection:
        connection.sendall(pairs([4]) + framed("cut off")[:7])
    wait_until(lambda: queued(live) == 3 and len(live.dead_letters()) == 4)
    dead_letters = {dead_letter.reason: dead_letter for dead_letter in live.dead_letters()}
    raws = sorted((dead_letter.reason, live.group.dead_letters.raw(dead_letter)) for dead_letter in live.dead_letters() if dead_letter.reason != "bad-key")
    assert raws == [("bad-frame", framed("cut off")[:7]), ("bad-frame", long + pairs([3])), ("not-decoded", b"undecodable")]
    assert "ValueError" in dead_letters["not-decoded"].error
    # A message without a key is complete: a retry puts it into the ingress, whose worker refuses it for the same reason.
    assert live.group.dead_letters.retry([dead_letters["bad-key"]]) == 1
    assert live.client.llen("partition") == 1
    assert source.end() == 0


def fill_pipe(connection: socket.socket, data: bytes) -> int:
    """Send until the other side accepts no more. Returns the number of bytes sent."""
    connection.settimeout(1.0)
    sent = 0
    try:
        while sent < len(data):
            sent += connection.send(data[sent : sent + 65536])
    except TimeoutError:
        pass
    return sent


def test_it_stops_reading_while_a_queue_is_full_and_a_later_connection_waits(make_ends: Make) -> None:
    live = make_ends(PARTITIONS_QUEUE_MAX_LENGTH=500)
    source, port = live.start_listening()
    with ExitStack() as stack:
        first = stack.enter_context(sender(port))
        data = framed(*(f"key-{number % 5} {number:01000d}" for number in range(20_000)))
        sent = fill_pipe(first, data)
        assert sent < len(data)
        second = stack.enter_context(sender(port))
        second.sendall(framed("key-0 -1"))
        lengths = [row.length for row in live.group.status()]
        assert max(lengths) <= 500
        first.shutdown(socket.SHUT_WR)
        # Workers empty the queue. The message of the second connection is the last of its key.
        live.start_worker()
        with Receiver(live.sink_port) as receiver:
            live.start_end("sink", "out")
            wait_until(lambda: any(json.loads(frame)[1] == -1 for frame in receiver.frames[-5000:]), 60)
            whole = [json.loads(frame) for frame in receiver.frames]
    of_key = [number for key, number, _ in whole if key == "key-0"]
    assert of_key[-1] == -1
    assert of_key[:-1] == list(range(0, 5 * (len(of_key) - 1), 5))
    assert source.end() == 0


def test_on_sigterm_it_sends_what_has_arrived(make_ends: Make) -> None:
    live = make_ends()
    source, port = live.start_listening()
    with sender(port) as connection:
        connection.sendall(pairs(range(20_000)))
        assert source.end() == 0
    assert queued(live) == 20_000


def test_it_waits_for_an_unreachable_server_and_keeps_the_order(make_ends: Make, server_factory: Callable[..., Any]) -> None:
    server = server_factory(appendonly=True, appendfsync="always")
    live = make_ends(server.url())
    source, port = live.start_listening()
    with sender(port) as connection:
        connection.sendall(pairs(range(5000)))
        wait_until(lambda: queued(live) == 5000)
        server.kill()
        connection.sendall(pairs(range(5000, 10_000)))
        source.wait_for("reading is paused until Redis works again")
        server.start()
        wait_until(lambda: queued(live) == 10_000)
    with Receiver(live.sink_port) as receiver:
        live.start_worker()
        live.start_end("sink", "out")
        wait_until(lambda: len(receiver.frames) == 10_000, 60)
    assert received(receiver) == counted(10_000)
    assert source.end() == 0
