"""Stores the results of messages for their callers, in the message's own commit or in its follow-up.

If nothing follows the message, its commit stores the result. Otherwise its follow-up (`celery_partitions.results.follow_ups`) sends
what follows. It also stores the result of a success, because Celery stores a result together with its children, which are known
only when they are sent.
"""

from __future__ import annotations

import json
import logging
from functools import cached_property
from typing import Any

import msgspec
from celery import states
from celery.backends.base import DisabledBackend
from celery.exceptions import TaskRevokedError
from kombu.utils.json import dumps

from celery_partitions.model.effects import MoreEffects, Reply
from celery_partitions.model.errors import describe
from celery_partitions.model.items import ReplyRequest
from celery_partitions.model.messages import details_of, name_of, open_envelope
from celery_partitions.model.outcome import Outcome
from celery_partitions.model.reply_request import FOLLOW_UP, NOTHING_FOLLOWS, wants_reply
from celery_partitions.results.failure_replies import Failed, endings
from celery_partitions.results.follow_ups import FollowUps
from celery_partitions.runtime.installation import Installation
from celery_partitions.store.client import SERVER_ERRORS
from celery_partitions.worker.batch import Batch
from celery_partitions.worker.logs import log_fields
from celery_partitions.worker.owned import OwnedPartition

logger = logging.getLogger("celery.worker.partitions")

#: If an exception's JSON is longer, only its text is stored.
MAX_EXCEPTION_BYTES = 100_000


#: What is sent after a message that did not succeed, by its state.
_FOLLOWS: dict[str, tuple[str, ...]] = {states.FAILURE: ("errbacks", "chain", "chord"), states.REVOKED: ("chord",)}


class Replies:
    """Made once per loop and used by its thread. Does not use Celery's backend until a message wants a result."""

    def __init__(self, installation: Installation, follow_ups: FollowUps) -> None:
        self.app, self.follow_ups, self.computations = installation.app, follow_ups, installation.by_task

    def of(self, owned: OwnedPartition, batch: Batch, outcome: Outcome) -> list[MoreEffects]:
        """What an outcome's commit stores and pushes for callers who wait for its messages."""
        effects: list[MoreEffects] = []
        if outcome.answered:
            effects += [self.of_value(owned.partition, item) for item in outcome.done if type(item) is ReplyRequest]
        for failed in endings(owned, batch, outcome):
            try:
                effects += self.of_failure(owned.partition, failed)
            except SERVER_ERRORS:
                raise
            except Exception:
                text = "partition %s: cannot report a message's failure to its caller"
                logger.exception(text, owned.partition, extra=log_fields(owned.partition, message_id=name_of(failed.raw)[1]))
        return effects

    def of_value(self, partition: str, item: ReplyRequest) -> MoreEffects:
        """The reply or follow-up of a message that succeeded."""
        headers = item.envelope.headers
        wants = self.keeps and bool(headers.id) and wants_reply(item.computation, headers)
        if wants and self.stores and item.envelope.body.endswith(NOTHING_FOLLOWS):
            details = details_of(item.raw)
            return self.reply(headers.id, details.group, details.parent_id, states.SUCCESS, item.value, None)
        request = {**request_of(item.raw), "ignore_result": not wants}
        if wants and self.stores and not any(map(request.get, ("callbacks", "chain", "chord"))):
            return self.reply(headers.id, request.get("group"), request.get("parent_id"), states.SUCCESS, item.value, None)
        return self.follow_ups.make(partition, request, states.SUCCESS, item.value, None, item.trace_headers)

    def of_failure(self, partition: str, failed: Failed) -> list[MoreEffects]:
        """The reply and follow-up of a message that did not succeed."""
        try:
            request = request_of(failed.raw)
        except Exception:  # not a Celery message
            return []
        message_id, name = request.get("id"), request.get("task")
        if not isinstance(message_id, str) or not isinstance(name, str) or name == FOLLOW_UP:
            return []
        task, ignored = self.app.tasks.get(name), request.get("ignore_result")
        if ignored is None:
            ignored = task is not None and task.ignore_result  # Celery reports unknown tasks too
        wants = not ignored or (task is not None and task.store_errors_even_if_ignored and failed.state == states.FAILURE)
        wants = wants and self.keeps and bool(message_id)
        computation = self.computations.get(name)
        follows = () if computation is not None and not computation.follow_ups else _FOLLOWS.get(failed.state, ())
        if not wants and not any(map(request.get, follows)):
            return []
        prepared = self.prepared(failed)
        effects: list[MoreEffects] = []
        if wants and self.stores:
            group, parent = request.get("group"), request.get("parent_id")
            effects.append(self.reply(message_id, group, parent, failed.state, prepared, failed.traceback))
        if any(map(request.get, follows)) or (wants and not self.stores):
            result = prepared if failed.state != states.REVOKED else dumps(str(failed.error))
            request["ignore_result"] = not wants
            effects.append(self.follow_ups.make(partition, request, failed.state, result, failed.traceback))
        return effects

    @cached_property
    def keeps(self) -> bool:
        """Whether the app has a result backend at all."""
        return not isinstance(self.app.backend, DisabledBackend)

    @cached_property
    def stores(self) -> bool:
        """Whether commits can store replies: default format, in the broker's own Redis. Otherwise a follow-up uses Celery's code."""
        self.follow_ups.prepare()
        backend = self.app.backend
        usual = self.follow_ups.stores_here and backend.serializer == "json" and not backend.compression
        return usual and not self.app.conf.result_extended

    def reply(self, message_id: str, group: Any, parent: Any, state: str, result: str, traceback: str | None) -> Reply:
        """A result as Celery's backend stores it, with fields in the same order. `result`: the JSON of the value or exception."""
        backend = self.app.backend
        done = "null" if state == states.RETRY else f'"{self.app.now().isoformat()}"'
        extra = "".join(f', "{name}": {_text(value)}' for name, value in (("group_id", group), ("parent_id", parent)) if value)
        meta = (
            f'{{"status": "{state}", "result": {result}, "traceback": {_text(traceback)}, "children": [], '
            f'"date_done": {done}{extra}, "task_id": {_text(message_id)}}}'
        )
        seconds = backend.failure_expires if state == states.FAILURE else backend.expires
        return Reply(backend.get_key_for_task(message_id), meta, seconds)

    def prepared(self, failed: Failed) -> str:
        """The exception as Celery's backend stores it, as JSON."""
        error = TaskRevokedError(str(failed.error)) if failed.state == states.REVOKED else failed.error
        text = str(dumps(self.app.backend.prepare_exception(error, "json")))
        if len(text) > MAX_EXCEPTION_BYTES:
            text = str(dumps(self.app.backend.prepare_exception(RuntimeError(describe(error)), "json")))
        return text


def request_of(raw: bytes) -> dict[str, Any]:
    """A message as Celery's tracer expects it. Raises if the message cannot be decoded. A body that cannot be decoded counts as empty."""
    message = _lenient(raw)
    headers, properties = message["headers"], message["properties"]
    try:
        args, kwargs, *rest = msgspec.json.decode(open_envelope(raw).body)
    except Exception:
        args, kwargs, rest = [], {}, []
    embed = rest[0] if rest and isinstance(rest[0], dict) else {}
    return {
        **headers,
        "args": args,
        "kwargs": kwargs,
        **{name: embed.get(name) for name in ("callbacks", "errbacks", "chain", "chord")},
        "delivery_info": {**(properties.get("delivery_info") or {}), "priority": properties.get("priority")},
        "reply_to": properties.get("reply_to"),
        "correlation_id": properties.get("correlation_id"),
    }


def _lenient(raw: bytes) -> Any:
    """A decoded message. Reading a message does not look at fields that it does not need, so they may hold text that is not valid Unicode; it
    is replaced."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = json.dumps(json.loads(raw.decode("utf-8", "replace")), ensure_ascii=False)
        return msgspec.json.decode(text.encode("utf-8", "replace"))


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()
