"""Loads the Lua scripts in `lua/`, once per process. Each script has one typed function, in the module of its subject."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from hashlib import sha1
from importlib import resources
from typing import Any

import redis
from redis.exceptions import NoScriptError

from celery_partitions.store.servers import Servers, what_there_is


def _read(name: str) -> bytes:
    return resources.files("celery_partitions.store").joinpath("lua", f"{name}.lua").read_bytes()


class LuaScript:
    """One file in `lua/`. Called by its digest. If the server does not know the digest, the whole script is sent; that is safe, because
    an unknown script has not run."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = _read(name)
        for other in (b"result", b"timelines", b"merge_buckets"):
            self.text = self.text.replace(b"-- include %b\n" % other, _read(other.decode()))
        self.digest = sha1(self.text, usedforsecurity=False).hexdigest()
        #: Whether an operator's change is published on the channel that workers listen to.
        self._announces = b"redis.call('PUBLISH'" in self.text

    def run(self, client: redis.Redis, keys: list[Any], arguments: list[Any]) -> Any:
        """Run the script. Raises redis-py's errors."""
        try:
            answer = client.execute_command("EVALSHA", self.digest, len(keys), *keys, *arguments)
        except NoScriptError:
            answer = client.execute_command("EVAL", self.text, len(keys), *keys, *arguments)
        if self._announces and isinstance(client, Servers):
            client.announce(keys[0])
        return answer

    def run_many(self, client: redis.Redis, calls: Iterable[tuple[list[Any], list[Any]]], then: Sequence[Any] = ()) -> list[Any]:
        """Run the script once for each (KEYS, ARGV), in one round trip. If the server refuses a call, the error is that call's answer; also if
        one of several servers can't be reached. Raises redis-py's other errors. `then`: a command that runs after them in the same round trip;
        its answer comes last."""
        calls = list(calls)
        answers = self._pipelined(client, calls, then, "EVALSHA", self.digest)
        unknown = [number for number, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:
            again = [*unknown, len(calls)] if then else unknown
            # All with their text: loaded before, the server might have forgotten it again.
            for number, answer in zip(again, self._pipelined(client, [calls[number] for number in unknown], then, "EVAL", self.text), strict=True):
                answers[number] = answer
        return answers

    @staticmethod
    def _pipelined(
        client: redis.Redis, calls: Iterable[tuple[list[Any], list[Any]]], then: Sequence[Any], command: str, text: bytes | str
    ) -> list[Any]:
        with what_there_is(client) as pipe:
            for keys, arguments in calls:
                pipe.execute_command(command, text, len(keys), *keys, *arguments)
            if then:
                pipe.execute_command(*then)
            return pipe.execute(raise_on_error=False)


@cache
def script(name: str) -> LuaScript:
    """The script in `lua/<name>.lua`."""
    return LuaScript(name)


def digest_of(raw: bytes) -> str:
    """The SHA-1 by which a script recognizes a message, a record or a state without receiving it. Redis' Lua can compute it too."""
    return sha1(raw, usedforsecurity=False).hexdigest()
