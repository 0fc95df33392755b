"""The JSON form of keys, parked keys, dead letters and messages, for the commands and the dashboard."""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from celery_partitions.admin.dead_letters import fingerprint, raw_text
from celery_partitions.model.effects import ParkedKey
from celery_partitions.model.errors import MessageError
from celery_partitions.model.keys import key_bytes, shown_key
from celery_partitions.model.messages import details_of, moment_or_none, name_of, open_envelope
from celery_partitions.store.dead_letters import DeadLetter

#: The longest text of one message in a list.
MAX_TEXT_CHARACTERS = 4_000


def json_key(key: str) -> dict[str, str]:
    """A key in JSON: as text, and also in base64 if it is not UTF-8 text."""
    text = shown_key(key)
    return {"key": text} if text == key else {"key": text, "key_base64": base64.b64encode(key_bytes(key)).decode()}


def json_parked(one: ParkedKey) -> dict[str, Any]:
    """All facts about a parked key. `key`: its name for actions. `of_key`: the key whose messages wait, all or (`holds`) one computation's."""
    of_key = shown_key(one.of_key)
    return {
        **msgspec.structs.asdict(one),
        **json_key(one.key),
        "of_key": of_key,
        "holds": one.holds,
        "held": one.due is None,
        "reason": one.why,
    }


def json_dead_letter(dead_letter: DeadLetter) -> dict[str, Any]:
    """All fields of a dead letter, with its message also as text."""
    return {**msgspec.structs.asdict(dead_letter), "fingerprint": fingerprint(dead_letter), "message": raw_text(dead_letter)}


def json_message(raw: bytes) -> dict[str, Any]:
    """A queue's raw message as task, id, time of sending, and content as text. Never unpickles, and never raises for any content."""
    task, message_id = name_of(raw)
    try:
        content = open_envelope(raw).body
    except MessageError:
        content = raw
    text = _arguments(content[: 4 * MAX_TEXT_CHARACTERS])
    return {
        "task": task,
        "message_id": message_id,
        "sent_at": moment_or_none(details_of(raw).sent_at),
        "bytes": len(raw),
        "text": text if len(text) <= MAX_TEXT_CHARACTERS else text[:MAX_TEXT_CHARACTERS] + "…",
    }


def _arguments(content: bytes) -> str:
    """The single argument of a computation's message, as JSON. The whole body if it has another form."""
    try:
        body = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return content.decode("utf-8", "backslashreplace")
    match body:
        case [[one], {}, *_] if not body[1]:
            return msgspec.json.encode(one).decode()
    return content.decode()
