"""The computations of the simulation, and their messages. Each key's state is the list of the numbers applied to it."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from celery_partitions.model.computation import Computation
from celery_partitions.model.declaration import declare, key_extractor
from tests.support.applications.sequences import Sequence

#: A Celery task that is not a computation.
PLAIN_TASK = "plain"


@dataclass
class Deed:
    """A message that appends `number` to the state of `key`."""

    key: str
    number: int


@key_extractor
def deed_key(deed: Deed) -> str:
    return deed.key


#: Called in a computation, before and after it changes its state. The running schedule sets it.
during: list[Callable[[int], None]] = [lambda number: None]


def apply(deed: Deed, state: Sequence) -> None:
    during[0](deed.number)
    state.numbers.append(deed.number)
    during[0](deed.number)


def apply_batch(deeds: list[Deed], state: Sequence) -> None:
    for deed in deeds:
        apply(deed, state)


def declared(name: str, function: Callable[..., Any] = apply, **options: Any) -> Computation:
    return declare(function, name=name, state=Sequence, key=deed_key, **options)


def raw_deed(computation: str, key: str, number: int, **headers: Any) -> bytes:
    """A message as Celery's own client writes it. Its id is the number."""
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
