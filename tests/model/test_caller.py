"""The step with stages: which outputs are sent, in which order and with which id; and what a failure rolls back."""

from __future__ import annotations

from typing import Any

import pytest

from celery_partitions.model.caller import Call
from celery_partitions.model.computation import Context
from celery_partitions.model.errors import TimeLimitExceeded
from celery_partitions.model.policy import RetryPolicy
from celery_partitions.pipeline.sinks import RedisList, RedisStream, TaskSink
from tests.model.piped import (
    OUT,
    SIGNING,
    Log,
    begin,
    body_of,
    built,
    headers_of,
    ids,
    instruction,
    key,
    logging,
    only_first,
    payloads,
    raising,
    raws_of,
    read,
    run,
    same,
    send,
    stage,
    states,
)


def keep(value: Any, state: Log) -> Any:
    state.entries.append(value)
    return state.entries


# Outputs.


def test_none_ends_a_path_and_other_falsy_values_are_passed_on() -> None:
    app = built(begin().key_by(only_first).to(stage(same)).to_sink(OUT))
    outcome = run(app, [send(value, f"m{n}") for n, value in enumerate([None, 0, "", [], False])])
    assert payloads(outcome) == [0, "", [], False]
    assert len(outcome.done) == 5


def test_values_of_stages_in_the_same_step_are_counted() -> None:
    def twice(value: int) -> list[int]:
        return [value, value]

    many = built(begin().key_by(only_first).to(stage(twice, "twice", multi=True)).to(stage(same, "second")).to_sink(OUT))
    assert run(many, [send(1, "a"), send(2, "b")]).fused == {"twice": 2, "second": 4}
    only = built(begin().key_by(only_first).to(stage(same, "only")).to_sink(OUT))  # called without generators
    assert run(only, [send(1, "a"), send(2, "b")]).fused == {"only": 2}


def test_a_multi_returns_a_list_without_its_nones_and_goes_depth_first() -> None:
    def split(value: str) -> list[str | None]:
        return [part or None for part in value.split(" ")]

    first, second = stage(split, "words", multi=True), stage(lambda word: list(word), "dead_letters", multi=True)
    app = built(begin().key_by(only_first).to(first).to(second).to_sink(OUT))
    assert payloads(run(app, [send("ab  cd e")])) == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize("wrong", [(1, 2), "ab", {1: 2}, 7, iter([1])])
def test_any_other_return_value_of_a_multi_fails_the_message(wrong: Any) -> None:
    multi = stage(lambda value: wrong if value == "wrong" else [value], "multi", multi=True)
    app = built(begin().key_by(only_first).to(logging("before")).to(multi).to(logging("after")).to_sink(OUT))
    outcome = run(app, [send(1, "a"), send("wrong", "b"), send(2, "c")])
    assert payloads(outcome) == [1, 2]
    assert states(app, outcome) == {"before": {"k": [1, 2]}, "after": {"k": [1, 2]}}
    ((broken, _),) = outcome.dead
    assert "'multi' must return a list" in broken.error and type(wrong).__name__ in broken.error


def test_a_multi_may_return_none_and_an_empty_list() -> None:
    multi = stage(lambda value: None if value else [], "multi", multi=True)
    outcome = run(built(begin().key_by(only_first).to(multi).to_sink(OUT)), [send(1, "a"), send(0, "b")])
    assert not outcome.emitted and len(outcome.done) == 2


def test_outputs_are_numbered_in_the_order_in_which_they_are_sent() -> None:
    begun = begin().key_by(only_first).to(stage(same, "first"))
    tail = begun.key_by(key).to(logging("hop")).to_sink(RedisStream("stream"))
    app = built(begun.to(stage(same, "second")).to_sink(OUT).merge(tail).merge(begun.to_sink(TaskSink("notify"))))
    outcome = run(app, [send(instruction(1), "m")])
    assert ids(outcome.emitted) == ["m:0", "m:1", "m:2"]
    assert [type(one).__name__ for one in outcome.emitted] == ["Hop", "Push", "Delivery"]
    again = run(app, [send(instruction(1), "m")])
    assert again.emitted[:2] == outcome.emitted[:2]
    hop = raws_of(outcome)[0]
    (item,) = read(app, [hop])
    (entry,) = run(app, [hop]).emitted
    assert (item.key, item.computation.name) == ("k", "hop")
    assert entry.message_id == "m:0:0" and entry.key == "k"


def test_root_and_parent_ids_are_passed_through_every_hop() -> None:
    begun = begin().key_by(only_first).to(stage(same, "a"))
    app = built(begun.key_by(key).to(logging("b")).key_by(only_first).to(logging("c")).to_sink(TaskSink("notify")))
    raw, chain = send(instruction(1), "m", root_id="r", sent_at=12.5), []
    while raws := raws_of(run(app, [raw])):
        (raw,) = raws
        headers = headers_of(raw)
        chain.append((headers["task"], headers["id"], headers["parent_id"], headers["root_id"], headers["sent_at"]))
        if headers["task"] == "notify":
            break
    assert chain == [("b", "m:0", "m", "r", 12.5), ("c", "m:0:0", "m:0", "r", 12.5), ("notify", "m:0:0:0", "m:0:0", "r", 12.5)]


def test_a_pipeline_without_sinks_and_stages_removes_its_messages() -> None:
    outcome = run(built(begin().key_by(only_first).to_sinks([])), [send(1)])
    assert len(outcome.done) == 1 and not outcome.dead


def test_stages_get_their_key_and_the_original_message_in_the_context() -> None:
    seen: list[Context] = []

    def look(value: Any, context: Context) -> Any:
        seen.append(context)
        return value

    app = built(begin().key_by(only_first).to(stage(look, "one")).to(stage(look, "two")).to_sink(OUT))
    run(app, [send(1, "m", sent_at=3.0)])
    assert [(one.key, one.message_id, one.sent_at, one.attempt) for one in seen] == [("k", "m", 3.0, 1)] * 2


# Values are copied when they are returned.


def test_a_list_that_is_changed_after_it_was_returned_is_sent_unchanged() -> None:
    begun = begin().key_by(only_first).to(stage(keep, state=Log))
    app = built(begun.to_sink(OUT).merge(begun.key_by(only_first).to(logging("hop")).to_sink(RedisList("far"))))
    outcome = run(app, [send(n, f"m{n}") for n in range(3)])
    assert payloads(outcome) == [[0], [0, 1], [0, 1, 2]]
    assert [body_of(raw)[0][0] for raw in raws_of(outcome)] == [[0], [0, 1], [0, 1, 2]]


def test_what_a_stage_keeps_does_not_change_with_the_state_of_the_previous_stage() -> None:
    """In memory it is as if each state were read again: no state holds an object of another."""
    app = built(begin().key_by(only_first).to(stage(keep, state=Log)).to(logging("kept")).to_sink(OUT))
    outcome = run(app, [send(n, f"m{n}") for n in range(3)])
    assert states(app, outcome)["kept"] == {"k": [[0], [0, 1], [0, 1, 2]]}


def test_a_stage_cannot_change_the_state_of_the_previous_stage() -> None:
    def clear(value: Any) -> Any:
        value.clear()
        return value

    app = built(begin().key_by(only_first).to(stage(keep, state=Log)).to(stage(clear)).to_sink(OUT))
    outcome = run(app, [send(n, f"m{n}") for n in range(3)])
    assert states(app, outcome) == {"keep": {"k": [0, 1, 2]}}


def test_branches_get_copies() -> None:
    def spoil(value: Any) -> Any:
        value.append("spoiled")
        return value

    begun = begin().key_by(only_first)
    app = built(begun.to(stage(spoil)).to_sink(OUT).merge(begun.to(stage(same)).to_sink(RedisList("other"))))
    outcome = run(app, [send([1])])
    assert payloads(outcome) == [[1, "spoiled"], [1]]


# Failures.


@pytest.mark.parametrize("retries", [0, 2])
def test_a_failure_in_the_third_stage_rolls_back_the_first_and_only_its_own_outputs(retries: int) -> None:
    begun = begin().key_by(key).to(logging("first"))
    app = built(begun.to(stage(same)).to(stage(raising)).to(logging("last")).to_sink(OUT).merge(begun.to_sink(RedisList("early"))))
    raws = [send(instruction(0), "a"), send(instruction(1, "raise"), "b"), send(instruction(2, k="other"), "c"), send(instruction(3), "d")]
    outcome = run(app, raws, retries=retries)
    numbers = [0, 3] if retries == 0 else [0]
    assert [entry["n"] for entry in states(app, outcome)["first"]["k"]] == numbers
    assert states(app, outcome)["last"] == states(app, outcome)["first"]
    assert [one["n"] for one in payloads(outcome)] == [n for n in [0, 0, 2, 2, 3, 3] if n != 3 or retries == 0]
    if retries:
        assert outcome.mailed == {"k": [raws[1], raws[3]]} and outcome.parked["k"].failure.stage == "raising"
    else:
        assert [broken.message_id for broken, _ in outcome.dead] == ["b"]


def test_a_retried_message_sends_its_outputs_once_with_the_same_ids() -> None:
    def flaky(value: Any, context: Context) -> Any:
        if context.attempt == 1:
            raise ValueError("at first")
        return value

    app = built(begin().key_by(only_first).to(logging("log")).to(stage(flaky)).to_sink(OUT))
    first = run(app, [send(1, "m")], retries=3)
    assert not first.emitted and list(first.parked) == ["k"]
    again = run(app, first.mailed["k"], retries=3, mailbox_of="k", attempt=2)
    assert ids(again.emitted) == ["m:0"] and states(app, again) == {"log": {"k": [1]}}


def unpicklable_at(value: Any, state: Log) -> Any:
    state.entries.append((lambda: None) if value["do"] == "spoil" else value["n"])
    return value


@pytest.mark.parametrize("spoils_first", [True, False])
def test_an_unpicklable_state_of_one_of_two_stages_rolls_back_the_message_in_both(spoils_first: bool) -> None:
    policy = RetryPolicy(0, backoff_seconds=7.0, exhausted="hold")
    spoiling, log = stage(unpicklable_at, "spoils", state=Log, on_error=policy), logging("log")
    begun = begin().key_by(only_first)
    both = begun.to(spoiling).to(log) if spoils_first else begun.to(log).to(spoiling)
    app = built(both.to_sink(OUT))
    raws = [send(instruction(n, "spoil" if n == 1 else ""), f"m{n}") for n in range(3)]
    outcome = run(app, raws)
    assert states(app, outcome)["spoils"] == {"k": [0]}
    assert [entry["n"] for entry in states(app, outcome)["log"]["k"]] == [0]
    assert [one["n"] for one in payloads(outcome)] == [0]
    assert outcome.mailed == {"k": raws[1:]} and outcome.parked["k"].failure.stage == "spoils"
    assert outcome.parked["k"].seconds == 7.0
    again = run(app, raws[1:], mailbox_of="k", attempt=2)
    assert again.parked["k"].used_up and again.parked["k"].seconds is None  # held, as the policy of the stage says
    assert not again.emitted and not states(app, again)


class OnlyOnce:
    """What stages saw in all their calls."""

    seen: list[Any] = []  # noqa: RUF012


def once(value: Any) -> Any:
    OnlyOnce.seen.append(value["n"])
    if value["do"] == "once" and OnlyOnce.seen.count(value["n"]) > 1:
        raise RuntimeError("only once")
    return value


def test_a_message_that_cannot_run_twice_is_rolled_back_with_its_outputs_and_later_messages() -> None:
    OnlyOnce.seen.clear()
    app = built(begin().key_by(key).to(logging("log")).to(stage(once)).to(stage(raising)).to_sink(OUT))
    raws = [send(instruction(n, {1: "once", 3: "raise"}.get(n, "")), f"m{n}") for n in range(4)]
    outcome = run(app, [*raws, send(instruction(4, k="other"), "m4")])
    assert [one["n"] for one in payloads(outcome)] == [0, 4]
    assert outcome.mailed == {"k": raws[1:]}
    assert [entry["n"] for entry in states(app, outcome)["log"]["k"]] == [0]


def test_if_a_replayed_message_takes_another_path_the_replay_counts() -> None:
    """State and outputs come from the same call, and a stage that only the replay reaches is in the commit."""
    OnlyOnce.seen.clear()

    def turn(value: Any) -> Any:
        OnlyOnce.seen.append(value["n"])
        return {**value, "time": OnlyOnce.seen.count(value["n"])} if OnlyOnce.seen.count(value["n"]) > 1 or value["n"] else None

    spoiling = stage(unpicklable_at, "spoils", state=Log)
    begun = begin().key_by(only_first)
    late = begun.to(stage(turn)).to(logging("late")).to_sink(OUT)
    app = built(begun.to(spoiling).to_sinks([]).merge(late))
    first_only = run(app, [send(instruction(0), "a"), send(instruction(1, "spoil"), "b")])
    assert [entry["time"] for entry in states(app, first_only)["late"]["k"]] == [2]
    assert [one["time"] for one in payloads(first_only)] == [2]
    assert states(app, first_only)["spoils"] == {"k": [0]}


def test_a_state_first_used_during_a_replay_does_not_end_the_step() -> None:
    OnlyOnce.seen.clear()

    def second_time(value: Any) -> Any:
        OnlyOnce.seen.append(value["n"])
        return value if OnlyOnce.seen.count(value["n"]) > 1 else None

    begun = begin().key_by(only_first)
    late = begun.to(stage(second_time)).to(logging("late")).to_sink(OUT)
    app = built(begun.to(stage(unpicklable_at, "spoils", state=Log)).to_sinks([]).merge(late))
    outcome = run(app, [send(instruction(0), "a"), send(instruction(1, "spoil"), "b")])
    assert [entry["n"] for entry in states(app, outcome)["late"]["k"]] == [0]
    assert [one["n"] for one in payloads(outcome)] == [0]


def test_an_unreadable_state_of_the_second_stage_makes_a_dead_letter_and_leaves_both_states() -> None:
    app = built(begin().key_by(only_first).to(logging("one")).to(logging("two")).to_sink(OUT))
    other = SIGNING.dump(app.stages["two"], "another key", Log())
    outcome = run(app, [send(1)], stored={"two": {"k": other}})
    assert [(broken.reason, broken.key) for broken, _ in outcome.dead] == [("unreadable-state", "k")]
    assert not states(app, outcome) and not outcome.emitted and outcome.taken == 1


def test_a_state_that_became_unreadable_in_redis_discards_the_other_stages_of_its_key() -> None:
    app = built(begin().key_by(key).to(logging("one")).to(logging("two")).to(stage(raising)).to_sink(OUT))
    items = read(app, [send(instruction(0), "a"), send(instruction(1, "raise"), "b"), send(instruction(2), "c"), send(instruction(3, k="other"), "d")])
    assert len(items) == 4
    # The copy in memory is good, the one in Redis is damaged. This is noticed when the state must be rebuilt.
    stored = {"two": {"k": SIGNING.dump(app.stages["two"], "k", Log())}}
    good = run(app, [item.raw for item in items], stored=stored)
    assert [broken.message_id for broken, _ in good.dead] == ["b"]


@pytest.mark.parametrize("where", ["key_by", "encoder"])
def test_an_exception_of_a_key_extractor_or_encoder_fails_the_stage_that_returned_the_value(where: str) -> None:
    def refuse(value: Any) -> str:
        if value["do"] == "refuse":
            raise ValueError("no")
        return "x"

    giver = stage(lambda value: [instruction(0), instruction(1, "refuse")], "giver", multi=True, on_error=RetryPolicy(0, exhausted="hold"))
    begun = begin().key_by(only_first).to(giver)
    deep = begun.to(stage(same, "deeper")).to_sinks([])
    wide = begun.key_by(refuse).to(logging("hop")).to_sink(OUT) if where == "key_by" else begun.to_sink(RedisList("o", refuse))
    outcome = run(built(deep.merge(wide)), [send(1)])
    assert outcome.parked["k"].failure.stage == "giver" and outcome.parked["k"].seconds is None
    assert not outcome.emitted


def test_a_stage_has_its_own_time_limit_and_policy() -> None:
    def stuck(call: Call) -> Any:
        raise TimeLimitExceeded(f"{call.computation.name} took too long")

    slow = stage(same, "slow", time_limit=0.5, on_error="stop")
    app = built(begin().key_by(only_first).to(logging("log")).to(slow).to_sink(OUT))
    outcome = run(app, [send(1), send(2, "n")], call=stuck)
    assert outcome.pause and outcome.parked["k"].failure.stage == "slow" and outcome.taken == 1
    assert not states(app, outcome)


def test_a_stage_that_hung_fails_by_its_own_policy_in_the_next_process() -> None:
    slow = stage(same, "slow", time_limit=0.5, on_error="stop")
    app = built(begin().key_by(only_first).to(logging("log")).to(slow).to_sink(OUT))
    outcome = run(app, [send(1)], failed="took longer than its time limit of 0.5 s")
    assert outcome.pause and outcome.parked["k"].failure.stage == "slow"
