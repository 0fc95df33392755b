"""Follow-ups: send links, the rest of a chain, chord parts and error callbacks, by Celery's own code.

If something follows a message, its commit pushes a *follow-up* message onto the partition's queue, with the message's result and
what follows. A worker of the partition runs it as a Celery task that returns the same value or fails in the same way, so that
Celery's tracer sends what follows. Everything sent and stored meanwhile is recorded and written by the follow-up's commit, so it
happens exactly once.

A follow-up carries a seal made with a secret of the group, so that producers cannot forge one.
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
from celery_partitions.results.link_queues import check_shape
from celery_partitions.results.recorder import Recording, record_messages, record_results, recorded
from celery_partitions.runtime.installation import Installation
from celery_partitions.store.client import SERVER_ERRORS
from celery_partitions.store.commits import CommitStore
from celery_partitions.store.follow_ups import follow_up_secret

logger = logging.getLogger("celery.worker.partitions")


@dataclass(frozen=True, slots=True)
class Ending:
    """How a message ended."""

    #: Celery's state: SUCCESS, FAILURE, RETRY or REVOKED.
    state: str
    #: The value, the exception as Celery's backend prepares it, or the reason why the message was revoked.
    result: Any
    traceback: str | None = None


class _FollowUpTask(Task):  # type: ignore[misc]
    """Ends as the original message ended; Celery's tracer does the rest. It is not registered: only `FollowUps` runs it."""

    name = FOLLOW_UP
    typing = False
    track_started = False
    #: How the current follow-up's message ended, and whether to store its result.
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
            logger.exception("partitions: message %r failed, and not all of its error callbacks and chord parts could be sent", request.id)
        raise Ignore


class FollowUps:
    """Creates and runs follow-ups. Made once per loop and used by its thread."""

    def __init__(self, installation: Installation, node: str, store: CommitStore) -> None:
        self.installation, self.node, self.store = installation, node, store
        self.app: Celery = installation.app
        self._secret = b""
        #: Whether the app's results are in the broker's own Redis. If not, Celery stores them itself, at least once.
        self.stores_here = False

    def prepare(self) -> None:
        """Load what is needed from the servers, once. An outage here does not count as a message's failure."""
        if not self._secret:
            self.stores_here = why_not_own_backend(self.installation) is None
            record_messages(self.app, self.installation.group.names, self.installation.settings.follow_up_queues)
            task: Any = type("FollowUpTask", (_FollowUpTask,), {})
            task.bind(self.app)
            self._task = task()
            self._trace = build_tracer(FOLLOW_UP, self._task, self.app.loader, self.node, app=self.app)
            self._secret = follow_up_secret(self.installation.group.client, self.installation.group.names)

    def make(self, partition: str, request: dict[str, Any], state: str, result: str, traceback: str | None, more_headers: bytes = b"") -> FollowUp:
        """Create a follow-up. `request`: the message as Celery's tracer expects it. `result`: JSON. `more_headers`: JSON members, each with a leading comma."""
        self.prepare()
        if not self.app.conf.result_extended:
            request = {**request, "args": [], "kwargs": {}}  # not needed, and possibly long
        about = f'{{"request":{dumps(request)},"result":{result},"state":{dumps(state)},"traceback":{dumps(traceback)}}}'
        body = f"[[],{about},{{}}]".encode()
        template = MessageTemplate.small(FOLLOW_UP, self.installation.group.names.queue_name(partition), self.node)
        seal = b',"seal":' + json_text(self.seal(body))
        return FollowUp(template.fill(json_text(f"{request['id']}:follow-up")[1:-1], b"null", body, seal + more_headers))

    def seal(self, body: bytes) -> str:
        return blake2b(body, key=self._secret, digest_size=16).hexdigest()

    def run(self, items: Sequence[Item]) -> Outcome:
        """Run the follow-ups at the start of `items`. Returns their outcome. Raises redis-py's errors if a server does not answer."""
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
            except SERVER_ERRORS:
                raise
            except MessageError as error:
                outcome.dead.append((dead_letter(item, error, error.reason), 1))
            except Exception as error:
                outcome.dead.append((dead_letter(item, error), 1))
        return outcome

    def effects_of(self, item: PlainTask, outcome: Outcome) -> list[MoreEffects]:
        """What one follow-up sends and stores.

        If what follows a success cannot be sent, the follow-up becomes a dead letter, and error callbacks and the chord receive a failure.
        """
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
            raise MessageError("the seal of this follow-up is wrong: only workers of this group may write follow-ups", reason="unknown-task")
        _, about, _ = loads(body)
        check_shape(about["request"])
        return about["request"], Ending(about["state"], about["result"], about["traceback"])

    def traced(self, item: PlainTask, request: dict[str, Any], ending: Ending) -> tuple[list[MoreEffects], BaseException | None]:
        """What Celery's tracer sends and stores for a message with this ending; and the error if it fails."""
        self._task.ending, self._task.store = ending, not request["ignore_result"]
        tracing = self.installation.tracing
        with recorded(item.headers.id) as recording, nullcontext() if tracing is None else tracing.continued(item.raw):
            _, info, *_ = self._trace(request["id"], request["args"], request["kwargs"], {**request, "hostname": self.node})
        error = info.retval if info is not None and info.state == states.FAILURE else None
        if error is None:
            error = self.look_at_queues(recording, ending)
        return recording.effects, error

    def look_at_queues(self, recording: Recording, ending: Ending) -> BaseException | None:
        """Check the queues' types, because a queue of the wrong type would make the commit fail.

        Returns the error if messages cannot be pushed. Error callbacks to such a queue are dropped instead.
        """
        queues = list({one.queue for one in recording.effects if isinstance(one, Push)})
        if not queues:
            return None
        prefix = self.installation.group.names.prefix
        bad = [key.removeprefix(prefix) for key in self.store.no_lists(prefix + queue for queue in queues)]
        if not bad:
            return None
        text = f"what follows the message goes to queue {bad[0]!r}, but that Redis key has the wrong type, or this Redis user may not write it"
        if ending.state == states.SUCCESS:
            return SetupError(text)
        logger.error("partitions: message %r: %s; dropping the messages to it", recording.token, text)
        recording.effects = [one for one in recording.effects if not isinstance(one, Push) or one.queue not in bad]
        return None


def is_follow_up(item: Item) -> TypeGuard[PlainTask]:
    return isinstance(item, PlainTask) and item.headers.task == FOLLOW_UP


def dead_letter(item: PlainTask, error: BaseException, reason: str = "follow-up-failed") -> DeadLetterItem:
    """The dead letter of a follow-up. Retrying it sends everything again."""
    return DeadLetterItem(item.raw, reason, describe(error), trace_of(error), item.headers.task, item.headers.id)
