"""The actions of the pages. Each is a POST with a JSON body, and is audited under the Flower user's name, as those of the commands.

Answers: 200 `{"message": …}` and facts. 400: the request is not valid. 403: read-only mode, a request from another site, or Flower's
Redis user lacks a permission. 409: what the operator saw has changed, and nothing was done. 503: Redis is not reachable.
"""

from __future__ import annotations

from typing import Any

import msgspec
from tornado.escape import utf8
from tornado.web import HTTPError, authenticated

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


class OfDeadLetters(msgspec.Struct, forbid_unknown_fields=True):
    """Selects dead letters: by ids, by text, partition, reason, fingerprint, computation (`task`) and time of death, or all."""

    ids: list[str] = []
    text: str = ""
    partition: str = ""
    reason: str = ""
    fingerprint: str = ""
    after: float = 0.0
    before: float = 0.0
    task: str = ""
    all: bool = False
    #: Only the oldest of those that match.
    limit: int | None = None


class ParkedMany(msgspec.Struct, forbid_unknown_fields=True):
    """Selects parked keys. `limit`: only the first ones, longest waiting first."""

    why: str = ""
    task: str = ""
    text: str = ""
    partition: str = ""
    limit: int | None = None


class KeyAction(Action):
    """Base of the actions on one key."""

    def key_in(self, body: OfKey) -> str:
        return self.key_of(utf8(body.key), body.base64)


class Pause(Action):
    """POST /api/partitions/PARTITION/pause, …/resume: pause or resume the partition."""

    @authenticated
    async def post(self, partition: str, what: str) -> None:
        self.check_writable()
        group = self.installation.group
        name = group.names.queue_name(self.known_partition(partition))
        act = pause if what == "pause" else resume
        changed = bool(await self.acting(lambda: act(group.client, group.names, [partition], by=self.who)))
        state = "paused" if what == "pause" else "running"
        self.answer({"queue": name, "changed": changed, "message": f"{name} is {'' if changed else 'already '}{state}"})


class Drain(Action):
    """POST /api/partitions/workers/drain, …/undrain: make a worker give up its partitions and take no more, or let it take its share again."""

    @authenticated
    async def post(self, what: str) -> None:
        self.check_writable()
        node, group = self.body(OfWorker).node, self.installation.group
        act = drain if what == "drain" else undrain
        answer = await self.acting(lambda: act(group.client, group.names, node, by=self.who))
        if answer == "unknown":
            raise HTTPError(404, f"no worker {node[:200]} is running; nothing was done")
        done = "gives up its partitions, and takes no more" if what == "drain" else "takes its share of the partitions again"
        self.answer({"node": node, "changed": answer == "ok", "message": f"{node} {done}"})


class ParkedAction(KeyAction):
    """POST /api/partitions/key/retry, …/skip, …/discard: retry, skip or discard the failed message of a parked key."""

    @authenticated
    async def post(self, what: str) -> None:
        self.check_writable()
        body = self.body(OfParked)
        key = self.key_in(body)
        answer = await self.acting(self._act, key, what, body)
        if answer != "ok":
            raise HTTPError(409, refusal(answer))
        self.answer({"done": what, "message": _PARKED_DONE[what]})

    def _act(self, key: str, what: str, body: OfParked) -> Answer:
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

    @authenticated
    async def post(self, what: str) -> None:
        self.check_writable()
        body = self.body(ParkedMany)
        if body.why == "running":
            raise HTTPError(400, "the calls of running keys are in flight; there is nothing to retry or skip")
        query = ParkedQuery(body.why, body.task, body.text, self.known_partition(body.partition) if body.partition else "")
        self.answer(await self.acting(self._act, what, query, body.limit))

    def _act(self, what: str, query: ParkedQuery, limit: int | None) -> dict[str, Any]:
        keys = self.installation.group.parked_keys
        found = query.find(keys)[:limit]
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

    @authenticated
    async def post(self) -> None:
        self.check_writable()
        body = self.body(NewState)
        if body.digest is None and not body.preview:
            raise HTTPError(400, "digest is missing: send preview: true first, then the digest that it returns")
        self.answer(await self.acting(self._act, self.key_in(body), body))

    def _act(self, key: str, body: NewState) -> dict[str, Any]:
        seen = see(self.installation, body, key, stale_is_refused=not body.preview)
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

    @authenticated
    async def post(self) -> None:
        self.check_writable()
        body = self.body(OfState)
        self.answer(await self.acting(self._act, self.key_in(body), body))

    def _act(self, key: str, body: OfState) -> dict[str, Any]:
        seen = see(self.installation, body, key)
        if seen.stored is None:
            raise HTTPError(409, "the key has no state; nothing was done")
        if self.installation.group.state_editor.delete(seen, by=self.who) != "ok":
            raise HTTPError(409, state_changed(seen))
        return {"computation": body.computation, "old": plain_value(seen.plain), "message": "the state is deleted"}


class CancelTimer(KeyAction):
    """POST /api/partitions/key/cancel-timer: cancel the timer `timer` of a key."""

    @authenticated
    async def post(self) -> None:
        self.check_writable()
        body = self.body(OfTimer)
        self.answer(await self.acting(self._act, self.key_in(body), body))

    def _act(self, key: str, body: OfTimer) -> dict[str, Any]:
        seen = see(self.installation, body, key, stale_is_refused=False)
        try:
            answer = cancel_timer(self.installation.group.state_editor, seen, body.timer, by=self.who)
        except StateError as error:
            raise HTTPError(409, str(error)) from None
        if answer != "ok":
            raise HTTPError(409, state_changed(seen))
        return {"computation": body.computation, "timer": body.timer, "message": "the timer is cancelled"}


class DeadLettersAction(Action):
    """POST /api/partitions/dead-letters/retry, …/discard: retry or delete dead letters."""

    @authenticated
    async def post(self, what: str) -> None:
        self.check_writable()
        body = self.body(OfDeadLetters)
        partition = self.known_partition(body.partition) if body.partition else ""
        common = DeadLetterQuery(body.text, partition, body.reason, body.fingerprint, body.after, body.before, body.task)
        if sum((bool(body.ids), common.anything, body.all)) != 1:
            raise HTTPError(400, "expected one of: ids; a filter (text, partition, reason, fingerprint, after, before, task); all: true")
        if body.limit is not None and body.limit < 1:
            raise HTTPError(400, "limit must be at least 1")
        self.answer(await self.acting(self._act, what, body.ids, common, body.limit))

    def _act(self, what: str, ids: list[str], common: DeadLetterQuery, limit: int | None) -> dict[str, Any]:
        dead_letters = self.installation.group.dead_letters
        if ids:
            found = [DeadLetterPlace.of(one) for one in map(dead_letters.get, ids) if one is not None]
        else:
            found = common.places(dead_letters)[:limit]
        if what == "discard":
            gone = dead_letters.discard(found, by=self.who)
            return {"discarded": gone, "message": f"{gone:,} deleted"}
        meta, text = retry_dead_letters(dead_letters, found, by=self.who)
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
