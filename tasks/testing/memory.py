"""A Redis inside the process: redis-py's own client, with connections that run each command immediately on a `Keyspace`.

The harness's loop uses it in place of a server. It runs the engine's Lua scripts unchanged.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from hashlib import sha1
from typing import Any

import redis
from redis._parsers import Encoder
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, ResponseError
from redis.retry import Retry

from celery_partitions.testing.keyspace import Keyspace, Status, Words
from celery_partitions.testing.lua import run_script


class Database:
    """One database and its script cache. `run` answers one command, as a RESP2 connection would, and raises error replies."""

    def __init__(self, keyspace: Keyspace, scripts: dict[bytes, bytes] | None = None) -> None:
        self.keyspace = keyspace
        self.scripts = {} if scripts is None else scripts

    def run(self, words: Words) -> Any:
        match words[0].upper():
            case b"EVALSHA":
                text = self.scripts.get(words[1])
                if text is None:
                    raise NoScriptError("No matching script. Please use EVAL.")
            case b"EVAL":
                text = words[1]
                self._keep(text)
            case b"SCRIPT" if words[1].upper() == b"LOAD":
                return self._keep(words[2])
            case _:
                return self.keyspace.call(words)
        keys = int(words[2])
        return run_script(self.keyspace, text, words[3 : 3 + keys], words[3 + keys :])

    def _keep(self, text: bytes) -> bytes:
        digest = sha1(text, usedforsecurity=False).hexdigest().encode()
        self.scripts[digest] = text
        return digest


def client_of(keyspace: Keyspace) -> redis.Redis:
    """A client whose commands run in this process, on data that nothing else can reach. It never fails to connect."""
    return redis.Redis(connection_pool=_Pool(Database(keyspace)))  # type: ignore[arg-type]


class _Pool:
    """The part of redis-py's connection pool that its client uses."""

    def __init__(self, database: Database) -> None:
        self.connection_kwargs = {"protocol": 2}
        self._connection = _Connection(database)

    def get_connection(self, *_: Any, **__: Any) -> _Connection:
        return self._connection

    def release(self, connection: _Connection) -> None:
        """Discards unread answers, as if the connection was closed."""
        connection.disconnect()

    def get_encoder(self) -> Encoder:
        return Encoder("utf-8", "surrogateescape", False)

    def get_protocol(self) -> int:
        return 2

    def disconnect(self, *_: Any, **__: Any) -> None: ...

    close = reset = disconnect


class _Connection:
    """The part of redis-py's connection that its client and the engine use."""

    retry = Retry(NoBackoff(), 0)
    host, port, db, health_check_interval = "memory", 0, 0, 0
    credential_provider = None

    def __init__(self, database: Database) -> None:
        self._database = database
        self._answers: deque[Any] = deque()
        #: Commands between MULTI and EXEC.
        self._queued: list[Words] | None = None
        self._encode: Callable[[Any], bytes] = Encoder("utf-8", "surrogateescape", False).encode

    def connect(self, *_: Any, **__: Any) -> None: ...

    def disconnect(self, *_: Any, **__: Any) -> None:
        self._answers.clear()
        self._queued = None

    def should_reconnect(self) -> bool:
        return False

    def can_read(self, *_: Any, **__: Any) -> bool:
        return bool(self._answers)

    def pack_commands(self, commands: Sequence[Sequence[Any]]) -> list[Words]:
        return [[self._encode(word) for word in command] for command in commands]

    def send_packed_command(self, commands: list[Words], **_: Any) -> None:
        self._answers += [self._answer(words) for words in commands]

    def send_command(self, *words: Any, **_: Any) -> None:
        # redis-py passes a command of two words as one string.
        name, *rest = words
        self.send_packed_command(self.pack_commands([[*str(name).split(), *rest]]))

    def read_response(self, *_: Any, **__: Any) -> Any:
        answer = self._answers.popleft()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _answer(self, words: Words) -> Any:
        name = words[0].upper()
        if self._queued is not None and name != b"EXEC":
            self._queued.append(words)
            return Status(b"QUEUED")
        if name == b"MULTI":
            self._queued = []
            return Status(b"OK")
        if name == b"EXEC":
            queued, self._queued = self._queued or [], None
            return [self._answer(each) for each in queued]
        try:
            return self._database.run(words)
        except ResponseError as refusal:
            return refusal
