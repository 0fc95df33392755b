"""The actions of the pages. Each is a POST with a JSON body, and is audited under the Flower user's name, as those of the commands.

Answers: 200 `{"message": …}` and facts. 400: the request is not valid. 403: read-only mode, a request from another site, or Flower's
Redis user lacks a permission. 409: what the operator saw has changed, and nothing was done. 503: Redis is not reachable.
"""

from __future__ import annotations

from typing import Any

import msgspec
from tornado.escape import utf8
from tornado.web import HTTPError

from celery_partitions.admin.dead_letter_query import DeadLetterQuery
from celery_partitions.admin.dead_letters import DeadLetterPlace
from celery_partitions.admin.drain import drain, undrain
from celery_partitions.admin.parked_keys import Answer
from celery_partitions.admin.pause import pause, resume
from celery_partitions.admin.state_editor import SeenState
from celery_partitions.admin.state_json import plain_fields, plain_value, state_from_json
from celery_partitions.admin.timers import cancel_timer
from celery_partitions.admin.wording import refusal, retry_dead_letters, state_changed
from celery_partitions.dashboard.handlers import Action
from celery_partitions.dashboard.lists import ParkedQuery
from celery_partitions.model.errors import StateError
from celery_partitions.runtime.installation import Installation
from celery_partitions.store.scripts import digest_of

_PARKED_DONE = {
    "retry": "the message will be retried now",
    "skip": "the failed message is now a dead letter; the key continues",
    "discard": "the failed message is deleted; the key continues",
}


class OfKey(msgspec.Struct, forbid_unknown_fields=True):
    """The key, as text or in base64."""

    key: str
    base64: bool = False


class OfParked(OfKey, forbid_unknown_fields=True):
    """`message_id` and `since` are those that the operator saw. If another message has failed since, nothing is done."""

    message_id: str | None = None
    since: float | None = None


class OfState(OfKey, forbid_unknown_fields=True, kw_only=True):
    """`digest` is that of the state that the operator saw (empty: there was none). If the state has changed, nothing is done."""

    computation: str
    digest: str | None = None


class OfTimer(OfState, forbid_unknown_fields=True, kw_only=True):
    timer: str


class NewState(OfState, forbid_unknown_fields=True, kw_only=True):
    """`state`: an object, or its JSON as text. Missing fields keep their values, or with `replace` get their defaults. `preview`: write nothing; answer with the
    current state, its digest and the new state."""

    state: Any
    replace: bool = False
    preview: bool = False


class OfWorker(msgspec.Struct, forbid_unknown_fields=True):
    """A worker, by its Celery node name."""

    node: str


class OfDeadLetters(DeadLetterQuery, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Selects dead letters: by ids, by a query, or all."""

    ids: tuple[str, ...] = ()
    all: bool = False
    #: Only the oldest of those that match.
    limit: int | None = None


class ParkedMany(ParkedQuery, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Selects parked keys. `limit`: only the first ones, longest waiting first."""

    limit: int | None = None


class Pause(Action):
    """POST /api/partitions/PARTITION/pause, …/resume: pause or resume the partition."""

    def act(self, body: msgspec.Struct, partition: str, what: str) -> dict[str, Any]:
        group = self.installation.group
        name = group.names.queue_name(self.known_partition(partition))
        changed = bool((pause if what == "pause" else resume)(group.client, group.names, [partition], by=self.who))
        state = "paused" if what == "pause" else "running"
        return {"queue": name, "changed": changed, "message": f"{name} is {'' if changed else 'already '}{state}"}


class Drain(Action):
    """POST /api/partitions/workers/drain, …/undrain: make a worker give up its partitions and take no more, or let it take its share again."""

    form = OfWorker

    def act(self, body: OfWorker, what: str) -> dict[str, Any]:
        node, group = body.node, self.installation.group
        answer = (drain if what == "drain" else undrain)(group.client, group.names, node, by=self.who)
        if answer == "unknown":
            raise HTTPError(404, f"no worker {node[:200]} is running; nothing was done")
        done = "gives up its partitions, and takes no more" if what == "drain" else "takes its share of the partitions again"
        return {"node": node, "changed": answer == "ok", "message": f"{node} {done}"}


class KeyAction(Action):
    def key_in(self, body: OfKey) -> str:
        return self.key_of(utf8(body.key), body.base64)


class ParkedAction(KeyAction):
    """POST /api/partitions/key/retry, …/skip, …/discard: retry, skip or discard the failed message of a parked key."""

    form = OfParked

    def act(self, body: OfParked, what: str) -> dict[str, Any]:
        answer = self._answer(self.key_in(body), what, body)
        if answer != "ok":
            raise HTTPError(409, refusal(answer))
        return {"done": what, "message": _PARKED_DONE[what]}

    def _answer(self, key: str, what: str, body: OfParked) -> Answer:
        keys = self.installation.group.parked_keys
        seen = keys.get(key)
        if seen is None:
            return "not-parked"
        if body.since is not None and (body.message_id, body.since) != (seen.message_id, seen.since):
            return "changed"
        if what == "retry":
            return keys.retry(key, by=self.who)
        return (keys.skip if what == "skip" else keys.discard)(key, by=self.who, of=seen)


class ParkedManyAction(Action):
    """POST /api/partitions/parked/retry, …/skip: retry or skip the failed messages of all matching parked keys, or of the first `limit`."""

    form = ParkedMany

    def act(self, body: ParkedMany, what: str) -> dict[str, Any]:
        if body.why == "running":
            raise HTTPError(400, "the calls of running keys are in flight; there is nothing to retry or skip")
        if body.partition:
            self.known_partition(body.partition)
        keys = self.installation.group.parked_keys
        found = body.find(keys)[: body.limit]
        if what == "retry":
            answers = [keys.retry(one.key, by=self.who) for one in found]
        else:
            answers = [keys.skip(one.key, by=self.who, of=one) for one in found]
        done = answers.count("ok")
        words = "will be retried now" if what == "retry" else "skipped: their failed messages are dead letters"
        left = f"; {len(found) - done:,} had changed meanwhile" if done < len(found) else ""
        return {"done": done, "message": f"{done:,} of {len(found):,} keys {words}{left}"}


class SetState(KeyAction):
    """POST /api/partitions/key/state: preview a new state, or replace the previewed state (`digest`) with it."""

    form = NewState

    def act(self, body: NewState) -> dict[str, Any]:
        if body.digest is None and not body.preview:
            raise HTTPError(400, "digest is missing: send preview: true first, then the digest that it returns")
        seen = see(self.installation, body, self.key_in(body), stale_is_refused=not body.preview)
        text = body.state if isinstance(body.state, str) else msgspec.json.encode(body.state)
        assert seen.computation.state is not None
        base = None if body.replace else seen.to_merge_with()  # its StateError is a 409, because the request is valid
        try:
            made = state_from_json(seen.computation.state, text, base)
        except StateError as error:
            raise HTTPError(400, str(error)) from error
        meta = {
            "computation": body.computation,
            "old": plain_value(seen.plain),
            "new": plain_value(plain_fields(made)),
            "digest": _digest(seen),
        }
        if body.preview:
            return meta
        if self.installation.group.state_editor.set(seen, made, by=self.who) != "ok":
            raise HTTPError(409, state_changed(seen))
        return {**meta, "message": "the state is set"}


class Forget(KeyAction):
    """POST /api/partitions/key/forget: delete the state. The key's next message starts from a new state."""

    form = OfState

    def act(self, body: OfState) -> dict[str, Any]:
        seen = see(self.installation, body, self.key_in(body))
        if seen.stored is None:
            raise HTTPError(409, "the key has no state; nothing was done")
        if self.installation.group.state_editor.delete(seen, by=self.who) != "ok":
            raise HTTPError(409, state_changed(seen))
        return {"computation": body.computation, "old": plain_value(seen.plain), "message": "the state is deleted"}


class CancelTimer(KeyAction):
    """POST /api/partitions/key/cancel-timer: cancel the timer `timer` of a key."""

    form = OfTimer

    def act(self, body: OfTimer) -> dict[str, Any]:
        seen = see(self.installation, body, self.key_in(body), stale_is_refused=False)
        try:
            answer = cancel_timer(self.installation.group.state_editor, seen, body.timer, by=self.who)
        except StateError as error:
            raise HTTPError(409, str(error)) from None
        if answer != "ok":
            raise HTTPError(409, state_changed(seen))
        return {"computation": body.computation, "timer": body.timer, "message": "the timer is cancelled"}


class DeadLettersAction(Action):
    """POST /api/partitions/dead-letters/retry, …/discard: retry or delete dead letters."""

    form = OfDeadLetters

    def act(self, body: OfDeadLetters, what: str) -> dict[str, Any]:
        if body.partition:
            self.known_partition(body.partition)
        if sum((bool(body.ids), body.anything, body.all)) != 1:
            raise HTTPError(400, "expected one of: ids; a filter (text, partition, reason, fingerprint, after, before, task); all: true")
        if body.limit is not None and body.limit < 1:
            raise HTTPError(400, "limit must be at least 1")
        dead_letters = self.installation.group.dead_letters
        if body.ids:
            found = [DeadLetterPlace.of(one) for one in map(dead_letters.get, body.ids) if one is not None]
        else:
            found = body.places(dead_letters)[: body.limit]
        if what == "discard":
            gone = dead_letters.discard(found, by=self.who)
            return {"discarded": gone, "message": f"{gone:,} deleted"}
        chosen = {"ids": len(body.ids)} if body.ids else body.fields
        meta, text = retry_dead_letters(dead_letters, found, {**chosen, **({"limit": body.limit} if body.limit else {})}, by=self.who)
        return {**meta, "message": text}


def see(installation: Installation, body: OfState, key: str, *, stale_is_refused: bool = True) -> SeenState:
    """The state to change. Raises 404 if this process does not have the computation, 409 if the operator saw an older state."""
    computation = installation.by_task.get(body.computation)
    if computation is None or computation.state is None:
        raise HTTPError(404, f"this process has no state computation {body.computation!r}")
    seen = installation.group.state_editor.see(computation, key)
    if stale_is_refused and body.digest is not None and body.digest != _digest(seen):
        raise HTTPError(409, state_changed(seen))
    return seen


def _digest(seen: SeenState) -> str:
    return "" if seen.stored is None else digest_of(seen.stored)
