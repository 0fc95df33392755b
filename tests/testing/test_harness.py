"""What `harness` promises to users' tests. `test_agreement` tests what it shares with workers."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from celery_partitions import (
    DeclarationError,
    FileSink,
    MessageError,
    RedisList,
    RetryPolicy,
    StdoutSink,
    TCPSinkConfig,
    TCPSourceConfig,
    decoder,
    encoder,
    range_windows,
    source,
    state_computation,
)
from celery_partitions.producer.pipelines import applications
from celery_partitions.runtime.registry import declared
from celery_partitions.testing import CRASH_POINTS, CrashPoint, HarnessError, harness
from celery_partitions_config.settings import Settings
from tests.docs.test_testing import Payment, pay
from tests.testing.applications import Amount, Gather, Total, double, key_of, of_its_own

calls: list[int] = []


@state_computation("count calls", state=Total)
def count_calls(amount: Amount, total: Total) -> int:
    calls.append(amount.amount)
    total.total += 1
    return total.total


@state_computation("fail at once", state=Total, on_error=RetryPolicy(backoff_seconds=0, longest_backoff_seconds=0))
def fail_at_once(amount: Amount, total: Total) -> None:
    raise ValueError("always")


def test_a_pipeline_without_an_application_is_not_registered() -> None:
    unbuilt = source("not an application", type=Amount).key_by(key_of).to(double, name="unbuilt").to_sink(RedisList("out"))
    with harness(unbuilt) as h:
        h.send({"key": "a", "amount": 2})
        h.send(Amount("a", 3), message_id="my own")
        assert h.state("unbuilt", "a").total == 10
        assert h.outputs("out") == [["a", 4], ["a", 10]]
    assert not {"not an application", "unbuilt"} & declared.keys()


def test_a_pipeline_with_one_key_does_not_warn_in_the_harness() -> None:
    one_key = source("of one key", type=Amount).to(double, name="all of it").to_sinks([])
    with harness(one_key) as h:
        h.send_many([Amount("a", 1), Amount("b", 2)])
        assert h.state("all of it").total == 6


def test_a_computation_with_a_key() -> None:
    with harness(pay) as h:
        h.send_many([Payment("a", 1), {"account": "b", "amount": 5}, Payment("a", 2)])
        assert {key: state.entries for key, state in h.states(pay).items()} == {"a": [1, 2], "b": [5]}
        assert h.state(pay, "c") is None
        with pytest.raises(DeclarationError, match="states of several keys"):
            h.state(pay)
        with pytest.raises(MessageError, match=r"\$\.amount"):
            h.send({"account": "a", "amount": "x"})


@decoder(header_length=4, length_fmt=">I")
def as_dict(payload: bytes) -> dict[str, object]:
    raise NotImplementedError


def test_the_key_of_a_typed_stage_after_a_decoder_comes_from_the_typed_message() -> None:
    typed = source("frames of amounts", TCPSourceConfig("127.0.0.1", 0, as_dict)).key_by(key_of).to(double, name="typed").to_sink(RedisList("out"))
    with harness(typed) as h:
        h.send({"key": "a", "amount": 2})
        assert h.outputs("out") == [["a", 4]]


def test_errors_about_unknown_names_list_the_known_ones() -> None:
    with harness(applications["branch"]) as h:
        with pytest.raises(DeclarationError, match="'shout'"):
            h.outputs("shuot")
        with pytest.raises(DeclarationError, match="'keep even'"):
            h.state("keep odd")
        with pytest.raises(DeclarationError, match="'to double'"):
            h.send(Amount("a", 1), "to triple")
        with pytest.raises(HarnessError, match="after the commit"):
            h.crash("sometime")  # type: ignore[arg-type]
    with harness(applications["merged"]) as h, pytest.raises(DeclarationError, match="pass source="):
        h.send(Amount("a", 1))
    with pytest.raises(DeclarationError, match="it is a stage"):
        harness(double)


def test_a_state_is_returned_as_a_copy() -> None:
    with harness(of_its_own) as h:
        h.send(Amount("a", 1))
        h.state(of_its_own).seen.append(7)
        h.send(Amount("a", 2))
        assert h.state(of_its_own).seen == [1, 2]


def test_the_clock_moves_only_with_advance() -> None:
    with harness(of_its_own, now=datetime(2030, 5, 1, tzinfo=UTC)) as h:
        assert h.now == datetime(2030, 5, 1, tzinfo=UTC).timestamp()
        h.send(Amount("a", 1), countdown=90)
        h.send(Amount("a", 2), countdown=30)
        h.send(Amount("a", 3))
        h.advance(seconds=29.999)
        assert h.state(of_its_own).seen == [3]
        h.advance(milliseconds=1)
        assert h.state(of_its_own).seen == [3, 2]
        h.advance(minutes=1)
        assert h.state(of_its_own).seen == [3, 2, 1]
        h.advance(days=1, hours=1)
        assert h.now == datetime(2030, 5, 2, 1, 1, 30, tzinfo=UTC).timestamp()


def test_each_retry_runs_at_its_time() -> None:
    with harness(applications["failing: dead_letter"]) as h:
        h.send(Amount("a", 13))
        parked = h.parked["a"]
        assert (parked.attempt, parked.error) == (2, "ValueError: 13 is unlucky")
        assert parked.due == pytest.approx(h.now + 0.05)
        h.advance(milliseconds=50)
        assert h.parked["a"].attempt == 3
        h.advance(milliseconds=99)
        assert not h.dead_letters
        h.advance(milliseconds=1)
        assert [(dead_letter.key, dead_letter.attempts) for dead_letter in h.dead_letters] == [("a", 3)]
        assert h.parked == {}


def test_a_retry_without_a_wait_that_never_ends_is_an_error() -> None:
    failing = source("at once", type=Amount).key_by(key_of).to(fail_at_once).to_sinks([])
    with harness(failing) as h, pytest.raises(HarnessError, match="'a' fails each time"):
        h.send(Amount("a", 1))


@pytest.mark.parametrize("at", CRASH_POINTS)
def test_messages_of_a_dead_worker_run_again_and_count_once(at: CrashPoint) -> None:
    calls.clear()
    with harness(source("crashing", type=Amount).key_by(key_of).to(count_calls).to_sink(RedisList("out"))) as h:
        h.crash(at)
        h.send_many([Amount("a", 1), Amount("a", 2)])
        assert h.outputs("out") == [1, 2]
        assert h.state("count calls").total == 2
    again = {"in the step": [1], "before the commit": [1, 2]}
    assert calls == [*again.get(at, []), 1, 2]


def test_a_message_that_kills_several_workers_becomes_a_dead_letter() -> None:
    with harness(of_its_own, settings=Settings(max_worker_crashes=3)) as h:
        for _ in range(4):
            h.crash("in the step")
        h.send_many([Amount("a", 1), Amount("a", 2)])
        (dead_letter,) = h.dead_letters
        assert dead_letter.reason == "kills-the-worker"
        assert h.state(of_its_own).seen == [2]


def test_a_crash_that_never_happened_is_an_error() -> None:
    with pytest.raises(HarnessError, match="before the commit never happened"), harness(of_its_own) as h:
        h.crash("before the commit")
    with pytest.raises(ZeroDivisionError), harness(of_its_own) as h:
        h.crash("before the commit")
        1 / 0  # noqa: B018 - what the test itself raises is not hidden


def test_with_twice_each_message_runs_twice_and_counts_once() -> None:
    calls.clear()
    with harness(source("twice", type=Amount).key_by(key_of).to(count_calls).to_sink(RedisList("out")), twice=True) as h:
        h.send_many([Amount("a", 1), Amount("a", 2)])
        assert (calls, h.outputs("out")) == ([1, 2, 1, 2], [1, 2])


def test_values_that_json_cannot_represent_need_a_signing_key_as_in_a_worker() -> None:
    branch = applications["branch"]
    with harness(branch, settings=Settings()) as h:
        h.send(Amount("a", 1))
        assert "PARTITIONS_STATE_SIGNING_KEY" in h.parked["a"].error
    with harness(branch, settings=Settings(state_signing_keys=(b"sixteen characters",))) as h:
        h.send(Amount("a", 1))
        assert h.outputs("shout") == [("a", 2)]
        assert h.outputs("elsewhere") == [["a", 2]]


@decoder(header_length=4, length_fmt=">I")
def decode(data: bytes) -> tuple[str, int]:
    key, number = data.decode().split("=")
    return key, int(number)


@encoder
def encode(total: int) -> bytes:
    return b"%d" % total


@state_computation("add pairs", state=Total)
def add_pairs(pair: tuple[str, int], total: Total) -> int:
    total.total += pair[1]
    return total.total


def test_decoders_and_encoders_of_sockets_and_files() -> None:
    """A source accepts what its decoder returns. A sink's outputs are what its encoder returns, or values."""
    added = source("frames", TCPSourceConfig("127.0.0.1", 0, decode)).key_by(lambda pair: pair[0]).to(add_pairs)
    sinks = [TCPSinkConfig("127.0.0.1", 1, encode, name="frames out"), FileSink("totals.jsonl"), StdoutSink(encoder=encode)]
    settings = Settings(state_signing_keys=(b"sixteen characters",))
    with harness(added.to_sinks(sinks), settings=settings) as h:
        h.send_many([decode(b"a=1"), decode(b"b=5"), decode(b"a=2")])
        assert h.states("add pairs").keys() == {"a", "b"}
        assert sorted(h.outputs("frames out")) == sorted(h.outputs("stdout")) == [b"1", b"3", b"5"]
        assert sorted(h.outputs("totals.jsonl")) == [1, 3, 5]


def test_a_timer_due_within_a_millisecond_fires() -> None:
    short = source("short", type=Amount).key_by(key_of).to(range_windows(1_300_000).over(Gather), name="short windows")
    with harness(short.to_sink(RedisList("short"))) as h:
        h.send(Amount("a", 1))
        h.advance(milliseconds=5)
        assert h.outputs("short") == [["a", [1]]]


def test_a_new_harness_is_empty() -> None:
    with harness(applications["branch"]) as h:
        assert (h.states("keep even"), h.outputs("kept even"), h.dead_letters, h.parked, h.paused) == ({}, [], [], {}, [])
