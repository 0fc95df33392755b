"""The TCP source: frames in, messages on the partition queues, in order; nothing that comes is lost silently."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable

from tests.sources.conftest import LiveEnds
from tests.support.ends import Receiver, framed, sender
from tests.support.wait import wait_until

Make = Callable[..., LiveEnds]


def test_frames_go_through_a_pipeline_to_a_tcp_sink_in_order(make_ends: Make) -> None:
    live = make_ends()
    with Receiver(live.sink_port) as receiver:
        live.start_worker()
        live.start_end("sink", "out")
        source, port = live.start_listening()
        with sender(port) as connection:
            connection.sendall(framed(*(f"key-{number % 5} {number}" for number in range(5000))))
        with sender(port) as connection:  # the first was fully sent: its messages come first
            connection.sendall(framed(*(f"key-{number % 5} {number}" for number in range(5000, 10_000))))
        wait_until(lambda: len(receiver.frames) >= 10_000, 60)
    seen: dict[str, list[list[int]]] = defaultdict(list)
    for frame in receiver.frames:
        key, number, count = json.loads(frame)
        seen[key].append([number, count])
    assert seen == {f"key-{key}": [[number, at] for at, number in enumerate(range(key, 10_000, 5), 1)] for key in range(5)}
    assert source.end() == 0
