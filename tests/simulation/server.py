"""The simulated server: sessions whose requests arrive one at a time, blocking peeks, subscriptions, the script cache."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from hashlib import sha1
from typing import Any

from redis.exceptions import NoScriptError, ResponseError

from celery_partitions.testing.keyspace import Keyspace, Status, Words
from celery_partitions.testing.lua import run_script


class Session:
    """The server's side of one connection, and what is on the wire in both directions."""

    def __init__(self, owner: str) -> None:
        #: Who connected; for the trace and the judge.
        self.owner = owner
        #: Requests that are not executed yet, and answers that are not read yet.
        self.inbox: deque[Words] = deque()
        self.outbox: deque[Any] = deque()
        #: The connection is cut: the client finds out at its next read. What is in the inbox may still arrive.
        self.cut = False
        #: A blocking peek: the request, and until when it waits.
        self.blocked: Words | None = None
        self.blocked_until = 0.0
        self.channels: set[bytes] = set()
        #: Commands between MULTI and EXEC.
        self.queued: list[Words] | None = None

    @property
    def deliverable(self) -> bool:
        return bool(self.inbox) and self.blocked is None


class Server:
    """`edits`: texts that are replaced in the scripts, so that the engine is broken on purpose."""

    def __init__(self, edits: Mapping[str, str]) -> None:
        self.keyspace = Keyspace()
        self.keyspace.publish = self.publish
        self.sessions: list[Session] = []
        self.scripts: dict[bytes, bytes] = {}
        #: Every request that was executed, in order: when, what, and its answer. None: nobody wants it.
        self.log: list[tuple[float, Words, Any]] | None = None
        self.edits = {sound.encode(): broken.encode() for sound, broken in edits.items()}

    def deliver(self, session: Session) -> tuple[Words, Any]:
        """Execute the oldest request of a session; returns it and its answer (None while it blocks)."""
        words = session.inbox.popleft()
        answer = self.execute(words, session)
        if answer is not _NOTHING_YET:
            session.outbox.append(answer)
        self.wake_blocked()
        return words, answer

    def outside(self, *words: bytes) -> Any:
        """A command of a producer or an operator: executed at once."""
        answer = self.execute(list(words), Session("outside"))
        self.wake_blocked()
        return answer

    def execute(self, words: Words, session: Session) -> Any:
        """One request's answer; a refusal is a value too."""
        answer = self.answer(words, session)
        if self.log is not None:
            self.log.append((self.keyspace.now, words, answer))
        return answer

    def answer(self, words: Words, session: Session) -> Any:
        name = words[0].upper()
        if session.queued is not None and name != b"EXEC":
            session.queued.append(words)
            return Status(b"QUEUED")
        try:
            match name:
                case b"MULTI":
                    session.queued = []
                    return Status(b"OK")
                case b"EXEC":
                    queued, session.queued = session.queued or [], None
                    return [self.answer(each, session) for each in queued]
                case b"EVALSHA":
                    text = self.scripts.get(words[1])
                    if text is None:
                        return NoScriptError("No matching script. Please use EVAL.")
                    return self.run(text, words)
                case b"EVAL":
                    self.scripts[sha1(words[1], usedforsecurity=False).hexdigest().encode()] = words[1]
                    return self.run(words[1], words)
                case b"SCRIPT" | b"SCRIPT LOAD":
                    digest = sha1(words[-1], usedforsecurity=False).hexdigest().encode()
                    self.scripts[digest] = words[-1]
                    return digest
                case b"BLMOVE":
                    return self.peek(words, session)
                case b"SUBSCRIBE":
                    session.channels.update(words[1:])
                    return [b"subscribe", words[1], len(session.channels)]
                case _:
                    return self.keyspace.call(words)
        except ResponseError as refusal:
            return refusal

    def run(self, text: bytes, words: Words) -> Any:
        for sound, broken in self.edits.items():
            text = text.replace(sound, broken)
        keys = int(words[2])
        return run_script(self.keyspace, text, words[3 : 3 + keys], words[3 + keys :])

    def peek(self, words: Words, session: Session) -> Any:
        answer = self.keyspace.call([b"LMOVE", *words[1:5]])
        if answer is None:
            session.blocked, session.blocked_until = words, self.keyspace.now + float(words[5])
            return _NOTHING_YET
        return answer

    def wake_blocked(self) -> None:
        """Answer the blocking peeks whose queue has a message now, and those that have waited long enough."""
        for session in self.sessions:
            if session.blocked is None:
                continue
            if session.blocked[1] in self.keyspace.data:
                words, session.blocked = session.blocked, None
                answer = self.execute(words, session)
                if answer is not _NOTHING_YET:
                    session.outbox.append(answer)
            elif session.blocked_until <= self.keyspace.now:
                session.blocked = None
                session.outbox.append(None)

    def publish(self, channel: bytes, message: bytes) -> int:
        listening = [session for session in self.sessions if channel in session.channels and not session.cut]
        for session in listening:
            session.outbox.append([b"message", channel, message])
        return len(listening)


class _NothingYet:
    def __repr__(self) -> str:
        return "waits"


_NOTHING_YET = _NothingYet()
