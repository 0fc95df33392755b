"""What follows a message: links, the rest of a chain, the part of a chord, error callbacks. Celery's own code sends it.

The commit of a message that something follows pushes one more message onto its partition's queue, a *follow-up*: what came of the
message, and what it named. A worker of the partition runs it as a Celery task that returns the same value or fails in the same way, so
that Celery's tracer does what it always does. What is sent and stored meanwhile is recorded, and is part of the follow-up's commit:
it happens once.

A follow-up carries a seal made with a secret of the group: a producer can't send one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from hashlib import blake2b
from hmac import compare_digest
from typing import Any, TypeGuard

from celery import Celery, Task, states
from celery.app.trace import build_tracer
from celery.exceptions import Ignore
from kombu.utils.json import dumps, loads

from celery_partitions.model.effects import FollowUp, MoreEffects, Push
from celery_partitions.model.errors import MessageError, SetupError, describe, trace_of
from celery_partitions.model.items import DeadLetterItem, Item, PlainTask
from celery_partitions.model.message_writer import MessageTemplate, json_text
from celery_partitions.model.messages import details_of, open_envelope
from celery_partitions.model.outcome import Outcome
from celery_partitions.model.reply_request import FOLLOW_UP
from celery_partitions.results.backend import why_not_own_backend
from celery_partitions.results.recorder import Recording, record_messages, record_results, recorded
from celery_partitions.runtime.installation import Installation
from celery_partitions.store.client import UNWELL
from celery_partitions.store.commits import CommitStore
from celery_partitions.store.follow_ups import follow_up_secret

logger = logging.getLogger("celery.worker.partitions")


@dataclass(frozen=True, slots=True)
class Ending:
    """What came of a message."""

    #: Of Celery's states: SUCCESS, FAILURE, RETRY or REVOKED.
    state: str
    #: The value, or the exception as Celery's backend prepares it; of a revoked message the reason.
    result: Any
    traceback: str | None = None


class _FollowUpTask(Task):  # type: ignore[misc]
    """Ends as the message ended that it follows; Celery's tracer does the rest. It is in no registry: only `FollowUps` runs it."""

    name = FOLLOW_UP
    typing = False
    track_started = False
    #: Of the follow-up that runs now, and whether its message's result is stored.
    ending: Ending
    store: bool

    def run(self, *_: Any, **__: Any) -> Any:
        ending, store = self.ending, self.store
        if ending.state == states.SUCCESS:
            return ending.result
        request, backend, result = self.request, self.backend, ending.result
        try:
            if ending.state == states.REVOKED:
                backend.mark_as_revoked(request.id, result, request=request, store_result=store)
            elif ending.state == states.RETRY:
                error = backend.exception_to_python(result)
                backend.mark_as_retry(request.id, error, ending.traceback, request=request, store_result=store)
            else:
                error = backend.exception_to_python(result)
                backend.mark_as_failure(request.id, error, ending.traceback, request=request, store_result=store)
        except Exception:
            logger.exception("partitions: not all of what follows the failed message %r could be sent", request.id)
        raise Ignore


class FollowUps:
    """Makes follow-ups, and runs them. Made once a loop, used by its thread."""

    def __init__(self, installation: Installation, node: str, store: CommitStore) -> None:
        self.installation, self.node, self.store = installation, node, store
        self.app: Celery = installation.app
        self._secret = b""
        #: Whether the app's results are in the broker's own Redis. If not, Celery stores them by itself, at least once.
        self.stores_here = False

    def prepare(self) -> None:
        """Ask the servers what has to be known, once: an outage is an outage here, and not a failure of a message."""
        if not self._secret:
            self.stores_here = why_not_own_backend(self.installation) is None
            record_messages(self.app, self.installation.group.names, self.installation.settings.follow_up_queues)
            task: Any = type("FollowUpTask", (_FollowUpTask,), {})
            task.bind(self.app)
            self._task = task()
            self._trace = build_tracer(FOLLOW_UP, self._task, self.app.loader, self.node, app=self.app)
            self._secret = follow_up_secret(self.installation.group.client, self.installation.group.names)

    def make(self, partition: str, request: dict[str, Any], state: str, result: str, traceback: str | None, more_headers: bytes = b"") -> FollowUp:
        """`request`: the message as Celery's tracer knows it. `result`: as JSON. `more_headers`: each with a comma before it."""
        self.prepare()
        if not self.app.conf.result_extended:
            request = {**request, "args": [], "kwargs": {}}  # nobody asks for them, and they may be long
        about = f'{{"request":{dumps(request)},"result":{result},"state":{dumps(state)},"traceback":{dumps(traceback)}}}'
        body = f"[[],{about},{{}}]".encode()
        template = MessageTemplate(FOLLOW_UP, self.installation.group.names.queue_name(partition), self.node)
        seal = b',"seal":' + json_text(self.seal(body))
        return FollowUp(template.fill(json_text(f"{request['id']}:follow-up")[1:-1], b"null", body, seal + more_headers))

    def seal(self, body: bytes) -> str:
        return blake2b(body, key=self._secret, digest_size=16).hexdigest()

    def run(self, items: Sequence[Item]) -> Outcome:
        """The outcome of the follow-ups that `items` begin with. Raises redis-py's errors when a server does not answer."""
        self.prepare()
        if self.stores_here:
            record_results(self.app)
        outcome = Outcome()
        for item in items:
            if not is_follow_up(item):
                break
            outcome.taken += 1
            try:
                outcome.effects += self.effects_of(item, outcome)
            except UNWELL:
                raise
            except MessageError as error:
                outcome.dead.append((dead_letter(item, error, error.reason), 1))
            except Exception as error:
                outcome.dead.append((dead_letter(item, error), 1))
        return outcome

    def effects_of(self, item: PlainTask, outcome: Outcome) -> list[MoreEffects]:
        """What one follow-up sends and stores. If what follows a success can't be sent, the message counts as failed for whoever
        waits for what follows, and the follow-up is a dead letter."""
        request, ending = self.open(item)
        effects, error = self.traced(item, request, ending)
        if error is not None:
            outcome.dead.append((dead_letter(item, error), 1))
            prepared = self.app.backend.prepare_exception(error)
            effects, _ = self.traced(item, request, Ending(states.FAILURE, prepared, trace_of(error)))
        return effects

    def open(self, item: PlainTask) -> tuple[dict[str, Any], Ending]:
        body, seal = open_envelope(item.raw).body, details_of(item.raw).seal
        if not isinstance(seal, str) or not compare_digest(seal.encode(), self.seal(body).encode()):
            raise MessageError("only workers of this group write follow-ups, and the seal of this one is wrong", reason="unknown-task")
        _, about, _ = loads(body)
        return about["request"], Ending(about["state"], about["result"], about["traceback"])

    def traced(self, item: PlainTask, request: dict[str, Any], ending: Ending) -> tuple[list[MoreEffects], BaseException | None]:
        """What Celery's tracer sends and stores for a message that ended so; and why it can't, if it can't."""
        self._task.ending, self._task.store = ending, not request["ignore_result"]
        tracing = self.installation.tracing
        with recorded(item.headers.id) as recording, nullcontext() if tracing is None else tracing.continued(item.raw):
            _, info, *_ = self._trace(request["id"], request["args"], request["kwargs"], {**request, "hostname": self.node})
        error = info.retval if info is not None and info.state == states.FAILURE else None
        if error is None:
            error = self.look_at_queues(recording, ending)
        return recording.effects, error

    def look_at_queues(self, recording: Recording, ending: Ending) -> BaseException | None:
        """A key of another type must not keep the commit from being written: why the messages can't be pushed, if so. An error
        callback that can't be is left out."""
        queues = list({one.queue for one in recording.effects if isinstance(one, Push)})
        if not queues:
            return None
        prefix = self.installation.group.names.prefix
        bad = [key.removeprefix(prefix) for key in self.store.no_lists(prefix + queue for queue in queues)]
        if not bad:
            return None
        text = f"what follows the message goes to queue {bad[0]!r}, and that key holds another type, or may not be written"
        if ending.state == states.SUCCESS:
            return SetupError(text)
        logger.error("partitions: message %r: %s; it is left out", recording.token, text)
        recording.effects = [one for one in recording.effects if not isinstance(one, Push) or one.queue not in bad]
        return None


def is_follow_up(item: Item) -> TypeGuard[PlainTask]:
    return isinstance(item, PlainTask) and item.headers.task == FOLLOW_UP


def dead_letter(item: PlainTask, error: BaseException, reason: str = "follow-up-failed") -> DeadLetterItem:
    """Of a follow-up. Retried, it sends all of it again."""
    return DeadLetterItem(item.raw, reason, describe(error), trace_of(error), item.headers.task, item.headers.id)
