"""The Lua scripts of `lua/`, loaded once a process; each has one typed function in the module of its subject."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from hashlib import sha1
from importlib import resources
from typing import Any

import redis
from redis.exceptions import NoScriptError


class LuaScript:
    """One file of `lua/`. Called by its digest; sent whole when the server does not know it (a script that the server
    does not know has not run, so this is safe)."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = resources.files("celery_partitions.store").joinpath("lua", f"{name}.lua").read_bytes()
        self.digest = sha1(self.text, usedforsecurity=False).hexdigest()

    def run(self, client: redis.Redis, keys: list[Any], arguments: list[Any]) -> Any:
        """Run it. Raises redis-py's errors."""
        try:
            return client.execute_command("EVALSHA", self.digest, len(keys), *keys, *arguments)
        except NoScriptError:
            return client.execute_command("EVAL", self.text, len(keys), *keys, *arguments)

    def run_many(self, client: redis.Redis, calls: Iterable[tuple[list[Any], list[Any]]]) -> list[Any]:
        """Run it once for each (KEYS, ARGV), in one round trip. A refusal of one call is its answer; raises redis-py's other errors."""
        calls = list(calls)
        answers = self._pipelined(client, calls)
        if any(isinstance(answer, NoScriptError) for answer in answers):
            client.script_load(self.text)
            unknown = [number for number, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
            for number, answer in zip(unknown, self._pipelined(client, [calls[number] for number in unknown]), strict=True):
                answers[number] = answer
        return answers

    def _pipelined(self, client: redis.Redis, calls: Iterable[tuple[list[Any], list[Any]]]) -> list[Any]:
        with client.pipeline(transaction=False) as pipe:
            for keys, arguments in calls:
                pipe.execute_command("EVALSHA", self.digest, len(keys), *keys, *arguments)
            return pipe.execute(raise_on_error=False)


@cache
def script(name: str) -> LuaScript:
    """The script in `lua/<name>.lua`."""
    return LuaScript(name)


def digest_of(raw: bytes) -> str:
    """How scripts are told of a message (or a record, or a state) without sending it: its SHA-1, which Lua in Redis can make too."""
    return sha1(raw, usedforsecurity=False).hexdigest()
