"""Invalid messages, one for each reason. No two are equal."""

from __future__ import annotations

import json
from collections.abc import Callable

from tests.chaos.application import play
from tests.model.build import raw_envelope, raw_message

PLAY = play.computation.name
#: kombu cannot decode it, and its error text cannot be encoded.
UNDECODABLE = b'[[{"__type__": "uuid", "__value__": {"\\ud800": 1}}], {}, {}]'


def _body(number: int, *more: object) -> bytes:
    return json.dumps([[{"key": "junk", "number": number}, *more], {}, {}]).encode()


def _of_play(number: int, **headers: object) -> bytes:
    return raw_envelope(_body(number), headers={"task": PLAY, "id": f"junk-{number}", **headers})


#: The expected reason of the dead letter → a function that makes such a message, with a number in it.
JUNK: list[tuple[str, Callable[[int], bytes]]] = [
    ("not-json", lambda number: b"not JSON %d" % number),
    ("not-json", lambda number: b"\xff\xfe\x00 %d" % number),
    ("not-a-message", lambda number: b"[%d]" % number),
    ("missing-headers", lambda number: _of_play(number, id=None)),
    ("missing-headers", lambda number: raw_envelope(_body(number), properties={"delivery_info": None})),
    ("content-type", lambda number: raw_envelope(_body(number), **{"content-type": "application/x-python-serialize"})),
    ("unknown-task", lambda number: _of_play(number, task="unknown")),
    ("wrong-type", lambda number: raw_message(PLAY, {"key": "junk", "number": f"not {number}"})),
    ("wrong-arguments", lambda number: raw_envelope(_body(number, 2), headers={"task": PLAY})),
    ("task-failed", lambda number: raw_envelope(UNDECODABLE, headers={"task": "celery.backend_cleanup", "id": f"junk-{number}"})),
    ("unknown-task", lambda number: _of_play(number, task="\x1b[31mnobody's\r\n\u202e\x00")),
    ("bad-time", lambda number: _of_play(number, eta="tomorrow")),
]
