"""Checks the queues that a plain task's message names for what follows it.

Celery's tracer sends the links of a plain task directly, so nothing records and checks them as it does for a follow-up. Code of the
task itself may send anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from celery_partitions.model.errors import MessageError, SetupError
from celery_partitions.model.reply_request import FOLLOW_UPS, NOTHING_FOLLOWS

#: Celery's own tasks that send the signatures in their arguments.
_SENDING_TASKS = "celery."


def check_shape(embed: dict[str, Any]) -> None:
    """Raises `MessageError` if links are not a list: Celery would send one message for each character of a text."""
    for name in ("callbacks", "errbacks", "chain"):
        if embed.get(name) is not None and not isinstance(embed.get(name), list):
            kind = type(embed.get(name)).__name__
            raise MessageError(f"{name!r} of the message must be a list of signatures or null, but is {kind}", reason="follow-up-failed")
    if embed.get("chord") is not None and not isinstance(embed.get("chord"), dict | list):
        raise MessageError(f"'chord' of the message must be a signature or null, but is {type(embed['chord']).__name__}", reason="follow-up-failed")


def check_links(task: str, body: bytes, is_allowed: Callable[[str], bool]) -> None:
    """Raises `SetupError` if links, chain or chord in the body name a queue that the app does not declare, or an exchange.

    Raises `MessageError` if they are not lists.
    """
    sends_arguments = task.startswith(_SENDING_TASKS)
    if body.endswith(NOTHING_FOLLOWS) and not sends_arguments:
        return
    args, kwargs, embed = msgspec.json.decode(body)
    if isinstance(embed, dict):
        check_shape(embed)
    named: list[Any] = [embed.get(name) for name in FOLLOW_UPS] if isinstance(embed, dict) else []
    if sends_arguments:
        named += [args, kwargs]
    for queue in _destinations(named):
        if not isinstance(queue, str) or not is_allowed(queue):
            raise SetupError(
                f"what follows plain task {task!r:.80} would go to {queue!r:.80}, which the app does not declare. This is refused "
                "because anyone who can send a message could choose it. To allow it, name it in task_queues, task_routes or "
                "PARTITIONS_FOLLOW_UP_QUEUES"
            )


def _destinations(value: Any) -> Iterator[Any]:
    """Where the signatures in a JSON value are to be sent, if they say so."""
    match value:
        case {"task": _, "options": dict(options)}:
            yield from (options[name] for name in ("queue", "exchange", "routing_key") if options.get(name))
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _destinations(one)
