"""The computations of the simulation: each key's state is the list of the numbers applied to it; and the messages for them."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from celery_partitions.model.computation import Computation, declare, key_extractor
from tests.support.applications.sequences import Sequence

#: A Celery task that is no computation.
PLAIN_TASK = "plain"


@dataclass
class Deed:
    """`number` is to be appended to the state of `key`."""

    key: str
    number: int


@key_extractor
def deed_key(deed: Deed) -> str:
    return deed.key


#: What happens in a computation, before and after it has changed its state; set by the schedule that runs.
during: list[Callable[[int], None]] = [lambda number: None]


def apply(deed: Deed, state: Sequence) -> None:
    during[0](deed.number)
    state.numbers.append(deed.number)
    during[0](deed.number)


def declared(name: str, **options: Any) -> Computation:
    return declare(apply, name=name, state=Sequence, key=deed_key, **options)


def raw_deed(computation: str, key: str, number: int, **headers: Any) -> bytes:
    """The message as Celery's own client writes it. Its id is the number."""
    return raw_message(computation, [{"key": key, "number": number}], str(number), **headers)


def raw_message(task: str, arguments: list[Any], message_id: str, **headers: Any) -> bytes:
    body = json.dumps([arguments, {}, {}]).encode()
    message = {
        "body": b64encode(body).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"lang": "py", "task": task, "id": message_id, **headers},
        "properties": {"delivery_tag": message_id, "delivery_info": {"exchange": ""}, "body_encoding": "base64"},
    }
    return json.dumps(message).encode()
