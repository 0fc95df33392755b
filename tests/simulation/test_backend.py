"""The simulated store behaves like a real server: the same calls have the same answers on both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.exceptions import NoScriptError, ResponseError

from celery_partitions.testing.keyspace import Keyspace, Words
from tests.simulation.schedule import Schedule
from tests.simulation.server import Server, Session
from tests.simulation.trace import script_of
from tests.simulation.world import World

#: On the real server, scripts read the simulated time from this key, in the form of TIME's answer.
TIME = b"simulated-time"
ASKS, ASKS_INSTEAD = b"redis.call('TIME')", b"redis.call('LRANGE', 'simulated-time', 0, 1)"

Call = Callable[[Words], Any]


@pytest.fixture(scope="module")
def real_call(redis_server: Any) -> Iterator[Call]:
    """A function that sends a command to a real server and returns its raw answer, including errors."""
    with redis.Redis.from_url(redis_server.url(), protocol=2) as client:
        connection = client.connection_pool.get_connection()

        def call(words: Words) -> Any:
            connection.send_command(*words)
            try:
                return connection.read_response()
            except ResponseError as refusal:
                return refusal

        yield call
        client.connection_pool.release(connection)


@pytest.fixture
def call(real_call: Call, redis_url: str) -> Call:
    """The same with an empty database."""
    return real_call


@pytest.mark.parametrize("seed", range(8))
def test_a_whole_schedule_gives_the_same_answers_and_data(call: Call, seed: int) -> None:
    for one in count(seed, 8):
        server = Server({})
        server.log = []
        with World(one, server) as world:
            if "lose" not in Schedule(world, server, seed=one).run().faults:
                break  # the real server loses no data
    clock = Keyspace()
    for clock.now, words, answer in server.log:
        match words[0].upper():
            case b"SUBSCRIBE" | b"PUBLISH" | b"TIME":
                continue
            case b"BLMOVE":
                if not isinstance(answer, bytes):
                    continue  # it blocks, and is in the log again when it is answered
                words = [b"LMOVE", *words[1:5]]
            case b"EVAL" | b"EVALSHA":
                if isinstance(answer, NoScriptError):
                    continue
                call([b"DEL", TIME])
                call([b"RPUSH", TIME, *clock.do_time()])
                words = [b"EVAL", script_of(words).text.replace(ASKS, ASKS_INSTEAD), *words[2:]]
        assert plain(words, call(words)) == plain(words, answer)
    call([b"DEL", TIME])
    assert len(server.log) > 50
    assert everything(call, call([b"KEYS", b"*"])) == everything(server.keyspace.call, list(server.keyspace.data))


def plain(words: Words, answer: Any) -> Any:
    """An answer in comparable form: only the code of an error, and without the order of hashes and of Lua's `pairs`."""
    if isinstance(answer, ResponseError):
        code = str(answer).split()[0]
        return "refused", code if code.isupper() else "ERR"  # redis-py removes ERR and keeps other codes
    if words[0] == b"XADD":
        return "an id"  # it contains the server's own time
    if words[0] == b"HGETALL":
        return dict(zip(answer[::2], answer[1::2], strict=True))
    if words[0] == b"HSCAN":
        return plain([b"HGETALL"], answer[1])
    if words[0] == b"EVAL" and isinstance(answer, list):
        return [sorted(each, key=repr) if isinstance(each, list) else plain([b""], each) for each in answer]
    return answer


def everything(call: Call, keys: list[bytes]) -> dict[bytes, Any]:
    """The values of the keys."""
    found = {}
    for key in keys:
        words = {
            b"string": [b"GET", key],
            b"list": [b"LRANGE", key, b"0", b"-1"],
            b"hash": [b"HGETALL", key],
            b"zset": [b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"],
            b"set": [b"SMEMBERS", key],
            b"stream": [b"XLEN", key],
        }[bytes(call([b"TYPE", key]))]
        answer = plain(words, call(words))
        found[key] = sorted(answer) if words[0] == b"SMEMBERS" else answer
    return found


# Each command directly, and through Lua.

KEYS = [b"a", b"b", b"c"]
key = st.sampled_from(KEYS)
word = st.sampled_from([b"x", b"y", b"", b"7", b"\xff\x00"])
index = st.integers(-4, 4).map(lambda number: b"%d" % number)
number = st.sampled_from([b"-inf", b"0", b"1", b"2.5", b"1800000000123", b"+inf"])
bound = st.one_of(number, number.map(lambda text: b"(" + text))
end = st.sampled_from([b"LEFT", b"RIGHT", b"left"])


def command(name: bytes, *parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Words]:
    """A command with its words. A part that gives a list adds any number of words."""
    return st.tuples(*parts).map(
        lambda given: [name, *(one for part in given for one in (part if isinstance(part, list) else [part]))]
    )


def some(*parts: st.SearchStrategy[bytes]) -> st.SearchStrategy[Words]:
    """One to three repetitions of some words."""
    return st.lists(st.tuples(*parts), min_size=1, max_size=3).map(lambda rows: [one for row in rows for one in row])


with_scores = st.sampled_from([[], [b"WITHSCORES"]])
limit = st.sampled_from([[], [b"LIMIT", b"0", b"1"], [b"LIMIT", b"1", b"5"]])

commands = st.one_of(
    *(command(name, key) for name in (b"TYPE", b"HGETALL", b"HLEN", b"LLEN", b"ZCARD", b"SCARD", b"GET", b"LPOP", b"RPOP")),
    *(command(name, some(key)) for name in (b"EXISTS", b"DEL", b"UNLINK")),
    *(command(name, key, word) for name in (b"SET", b"HGET", b"HEXISTS", b"ZSCORE")),
    *(command(name, key, some(word)) for name in (b"HMGET", b"HDEL", b"LPUSH", b"RPUSH", b"ZREM", b"SADD", b"SREM", b"SMISMEMBER")),
    command(b"HSET", key, some(word, word)),
    command(b"HSETNX", key, word, word),
    command(b"HINCRBY", key, word, index),
    command(b"RENAME", key, key),
    command(b"LINDEX", key, index),
    command(b"LRANGE", key, index, index),
    command(b"LTRIM", key, index, index),
    command(b"LMOVE", key, key, end, end),
    command(b"ZADD", key, some(number, word)),
    command(b"ZRANGE", key, index, index, with_scores),
    command(b"ZRANGEBYSCORE", key, bound, bound, limit, with_scores),
    command(b"PEXPIRE", key, st.sampled_from([b"100000", b"-1"])),
    st.sampled_from([[b"HSET", b"a", b"x"], [b"HGET", b"a"], [b"NOSUCH", b"a"]]),
)

#: Ways to run a command: directly, and with each of Lua's two calls, which convert answers.
ways = st.sampled_from(
    [
        None,
        b"return redis.call(unpack(ARGV))",
        b"return redis.pcall(unpack(ARGV))",
        b"local a = redis.pcall(unpack(ARGV)) return { type(a), a, 2.9, redis.sha1hex('x'), 'end' }",
        b"local a = redis.pcall(unpack(ARGV)) return type(a) == 'table' and { a.ok, a.err and 'err', #a, a[1] } or { a }",
    ]
)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(st.tuples(ways, commands), min_size=5, max_size=25))
def test_any_commands_give_the_same_answers_and_data(call: Call, steps: list[tuple[bytes | None, Words]]) -> None:
    call([b"FLUSHDB"])
    server = Server({})
    session = Session("outside")
    server.keyspace.now = 1_000.0
    for way, words in steps:
        asked = words if way is None else [b"EVAL", way, b"3", *KEYS, *words]
        assert plain(asked, call(asked)) == plain(asked, server.execute(asked, session)), (way, words)
    assert everything(call, call([b"KEYS", b"*"])) == everything(server.keyspace.call, list(server.keyspace.data))
