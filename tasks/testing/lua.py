"""Runs the engine's own Lua scripts in this process, by Lua 5.1 on a `Keyspace`, as a Redis server does."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from hashlib import sha1
from typing import Any

from redis.exceptions import ResponseError

from celery_partitions.model.errors import SetupError
from celery_partitions.testing.keyspace import Keyspace, Status, Words

try:
    from lupa.lua51 import LuaRuntime, lua_type
except ImportError as missing:
    raise SetupError(
        "the test kit needs the package lupa to run Lua scripts, and it is not installed: "
        "pip install 'celery-partitions[testing]'"
    ) from missing

_lua = LuaRuntime(encoding=None, register_eval=False, unpack_returned_tuples=False)
_table, _table_from = _lua.table, _lua.table_from

#: Types that need no conversion between Lua and Python.
_SAME = (bytes, int)

#: The keyspace of the running script. Scripts are compiled once and run on different keyspaces.
_keyspace = Keyspace()
#: The KEYS of the running script, which may use no others.
_declared: frozenset[bytes] = frozenset()
#: How many of a command's operands are keys, if not one.
_KEYS_OF = {b"TIME": 0, b"PUBLISH": 0, b"LMOVE": 2, b"RENAME": 2}


def run_script(keyspace: Keyspace, text: bytes, keys: Words, arguments: Words) -> Any:
    """Run a script and return its answer. Raises `ResponseError` if it fails; earlier writes of it stay, as in Redis."""
    global _keyspace, _declared
    _keyspace, _declared = keyspace, frozenset(keys)
    answer = _from_lua(_compiled(text)(_table_from(keys), _table_from(arguments)))
    if isinstance(answer, ResponseError):
        raise answer
    return answer


@cache
def _compiled(text: bytes) -> Callable[[Any, Any], Any]:
    function: Callable[[Any, Any], Any] = _lua.execute(b"return function(KEYS, ARGV) " + text + b"\nend")
    return function


def _call(*words: Any) -> Any:
    request = [word if type(word) is bytes else _word(word) for word in words]
    for key in request[1 : 1 + _KEYS_OF.get(request[0], 1)]:
        if key not in _declared:
            raise AssertionError(f"a script uses the key {key!r}, which is not among its KEYS: {request[:4]}")
    answer = _keyspace.call(request)
    return answer if type(answer) in _SAME else _to_lua(answer)


def _pcall(*words: Any) -> Any:
    try:
        return _call(*words)
    except ResponseError as error:
        return _named(b"err", str(error).encode())


def _sha1hex(text: Any) -> bytes:
    return sha1(_word(text), usedforsecurity=False).hexdigest().encode()


def _word(value: Any) -> bytes:
    """An argument of `redis.call` as bytes: Redis converts numbers to text."""
    if type(value) is bytes:
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return b"%d" % value if value == int(value) else b"%.17g" % value
    raise ResponseError("Lua redis lib command arguments must be strings or integers")


def _named(name: bytes, value: bytes) -> Any:
    table = _table()
    table[name] = value
    return table


def _to_lua(answer: Any) -> Any:
    if answer is None:
        return False
    if type(answer) is list:
        return _table_from([each if type(each) in _SAME else _to_lua(each) for each in answer])
    if type(answer) is Status:
        return _named(b"ok", bytes(answer))
    return answer


def _from_lua(value: Any) -> Any:
    if type(value) in _SAME:
        return value
    if value is None or value is False:
        return None
    if value is True:
        return 1
    if isinstance(value, float):
        return int(value)
    if lua_type(value) == "table":
        if value[b"ok"] is not None:
            return Status(value[b"ok"])
        if value[b"err"] is not None:
            return ResponseError(value[b"err"].decode("utf-8", "replace"))
        answer = []
        for at in range(1, len(value) + 1):
            if value[at] is None:
                break
            answer.append(_from_lua(value[at]))
        return answer
    return value


_redis = _table()
_redis[b"call"], _redis[b"pcall"], _redis[b"sha1hex"] = _call, _pcall, _sha1hex
_lua.globals()[b"redis"] = _redis
