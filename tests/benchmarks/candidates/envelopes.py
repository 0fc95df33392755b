"""Messages as stock Celery writes them (protocol 2, JSON, body in base64), created without Celery."""

from __future__ import annotations

import base64
from collections.abc import Callable

import msgspec
import redis
from trades import Trade, trades

#: Messages in one LPUSH while filling.
PUSHED_MESSAGES = 1000
EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


class Headers(msgspec.Struct):
    """The headers of a message that a consumer needs."""

    task: str
    id: str


class Envelope(msgspec.Struct):
    """A message as it is stored in the list."""

    body: str
    headers: Headers


def written(trade: Trade, number: int, queue: str) -> bytes:
    """The message that stock Celery's `apply_async` pushes for one trade, field by field."""
    body = base64.b64encode(msgspec.json.encode([[trade], {}, EMBED])).decode()
    task_id = f"{number:08x}-5a1d-4c3e-9b7f-2d6e8f0a1b3c"
    headers = {
        "lang": "py", "task": "average price", "id": task_id, "shadow": None, "eta": None, "expires": None,
        "group": None, "group_index": None, "retries": 0, "timelimit": [None, None], "root_id": task_id,
        "parent_id": None, "argsrepr": f"({trade!r},)", "kwargsrepr": "{}", "origin": "gen1@bench",
        "ignore_result": False, "replaced_task_nesting": 0, "stamped_headers": None, "stamps": {},
    }  # fmt: skip
    properties = {
        "correlation_id": task_id, "reply_to": "9f3c1d52-5a1d-4c3e-9b7f-2d6e8f0a1b3c", "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": queue}, "priority": 0, "body_encoding": "base64",
        "delivery_tag": f"{number:08x}-77aa-4c3e-9b7f-2d6e8f0a1b3c",
    }  # fmt: skip
    message = {"body": body, "content-encoding": "utf-8", "content-type": "application/json"}
    return msgspec.json.encode({**message, "headers": headers, "properties": properties})


def fill(client: redis.Redis, queue: str, count: int, keys: int) -> None:
    """Push all trades in order, so that the oldest is on the right, as with Celery."""
    waiting: list[bytes] = []
    for number, trade in enumerate(trades(count, keys), start=1):
        waiting.append(written(trade, number, queue))
        if len(waiting) == PUSHED_MESSAGES or number == count:
            client.lpush(queue, *waiting)
            waiting.clear()


def decoder() -> Callable[[bytes], Trade]:
    """A function from a message to its trade, with the two typed decoders made once."""
    envelope = msgspec.json.Decoder(Envelope).decode
    body = msgspec.json.Decoder(tuple[tuple[Trade], dict, dict]).decode

    def decode(raw: bytes) -> Trade:
        return body(base64.b64decode(envelope(raw).body))[0][0]

    return decode
