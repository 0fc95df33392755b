"""The simulated server: sessions whose requests arrive one at a time, blocking peeks, subscriptions, the script cache."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from hashlib import sha1
from typing import Any

from redis.exceptions import NoScriptError, ResponseError

from celery_partitions.store.names import INGRESS
from celery_partitions.store.slots import Places
from celery_partitions.testing.keyspace import Keyspace, Status, Words
from celery_partitions.testing.lua import run_script


class Session:
    """The server's side of one connection, and what is on the wire in both directions."""

    def __init__(self, owner: str) -> None:
        #: The client's name, for the trace and the judge.
        self.owner = owner
        #: Requests that have not been executed, and answers that have not been read.
        self.inbox: deque[Words] = deque()
        self.outbox: deque[Any] = deque()
        #: The connection is cut. The client notices at its next read. What is in the inbox may still arrive.
        self.cut = False
        #: A blocking peek: the request, and the end of its wait.
        self.blocked: Words | None = None
        self.blocked_until = 0.0
        self.channels: set[bytes] = set()
        #: Commands between MULTI and EXEC.
        self.queued: list[Words] | None = None

    @property
    def deliverable(self) -> bool:
        return bool(self.inbox) and self.blocked is None


class Server:
    """`edits`: replacements in the scripts, to break the engine on purpose."""

    def __init__(self, edits: Mapping[str, str]) -> None:
        self.keyspace = Keyspace()
        self.keyspace.publish = self.publish
        self.sessions: list[Session] = []
        self.scripts: dict[bytes, bytes] = {}
        #: Where partitions are on several servers: which one has a key. A script must see one only.
        self.places: Places | None = None
        #: Its clock minus the world's.
        self.clock_offset = 0.0
        #: Every executed request, in order: time, words and answer. None: not recorded.
        self.log: list[tuple[float, Words, Any]] | None = None
        self.edits = {sound.encode(): broken.encode() for sound, broken in edits.items()}

    def deliver(self, session: Session) -> tuple[Words, Any]:
        """Execute the oldest request of a session. Returns it with its answer (None while it blocks)."""
        words = session.inbox.popleft()
        answer = self.execute(words, session)
        if answer is not _NOTHING_YET:
            session.outbox.append(answer)
        self.wake_blocked()
        return words, answer

    def outside(self, *words: bytes) -> Any:
        """Execute a command of a producer or an operator at once."""
        answer = self.execute(list(words), Session("outside"))
        self.wake_blocked()
        return answer

    def execute(self, words: Words, session: Session) -> Any:
        """The answer to a request. An error is also a value."""
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
        count = int(words[2])
        keys, arguments = words[3 : 3 + count], words[3 + count :]
        if self.places is not None:
            if self.places.owner(keys[0]) == INGRESS:  # a partition's queue on the control server is another list
                keys = [b"stray " + key if key.startswith(b"partition.") else key for key in keys]
            if len({self.places.owner(key) for key in keys}) > 1:
                return ResponseError(f"CROSSSLOT {keys!r:.300}")
        return run_script(self.keyspace, text, keys, arguments)

    def peek(self, words: Words, session: Session) -> Any:
        answer = self.keyspace.call([b"LMOVE", *words[1:5]])
        if answer is None:
            session.blocked, session.blocked_until = words, self.keyspace.now - self.clock_offset + float(words[5])
            return _NOTHING_YET
        return answer

    def wake_blocked(self) -> None:
        """Answer blocking peeks whose queue now has a message, and those whose wait has ended."""
        for session in self.sessions:
            if session.blocked is None:
                continue
            if session.blocked[1] in self.keyspace.data:
                words, session.blocked = session.blocked, None
                answer = self.execute(words, session)
                if answer is not _NOTHING_YET:
                    session.outbox.append(answer)
            elif session.blocked_until <= self.keyspace.now - self.clock_offset:
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
