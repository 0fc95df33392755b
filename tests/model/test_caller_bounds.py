"""The step with stages: how much fits into one commit, what the next stage would not accept, and two ways into one state."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace

from celery_partitions.model.declaration import declare
from celery_partitions.model.effects import Hop
from celery_partitions.model.message_codec import MessageCodec
from tests.model.piped import (
    OUT,
    Log,
    begin,
    built,
    headers_of,
    instruction,
    key,
    logging,
    only_first,
    payloads,
    raising,
    run,
    same,
    send,
    stage,
    states,
)


@dataclass
class Order:
    item: str


# The size of a commit.


def test_a_commit_has_a_maximum_size_and_the_next_step_continues() -> None:
    many = stage(lambda value: [value] * 4_000, "many", multi=True)
    app = built(begin().key_by(only_first).to(many).to_sink(OUT))
    outcome = run(app, [send(n, f"m{n}") for n in range(9)])
    assert (outcome.taken, len(outcome.done), len(outcome.emitted)) == (3, 3, 12_000)


def test_large_outputs_fill_a_commit_sooner() -> None:
    large = stage(lambda value: "x" * 12_000_000, "large")
    app = built(begin().key_by(only_first).to(large).to_sink(OUT))
    assert run(app, [send(n, f"m{n}") for n in range(9)]).taken == 3


def test_an_output_that_fits_into_no_commit_fails_its_message() -> None:
    many = stage(lambda count: [0] * count, "many", multi=True)
    app = built(begin().key_by(only_first).to(logging("log")).to(many).to_sink(OUT))
    outcome = run(app, [send(50_001, "a"), send(1, "b")])
    assert [broken.message_id for broken, _ in outcome.dead] == ["a"] and len(outcome.emitted) == 1
    assert "one message has 50001 outputs" in outcome.dead[0][0].error
    assert states(app, outcome) == {"log": {"k": [1]}}


def test_a_message_that_the_next_stage_cannot_decode_fails_the_stage_that_returned_it() -> None:
    large = stage(lambda value: "x" * 6_000_000, "large")
    app = built(begin().key_by(only_first).to(large).key_by(only_first).to(logging("log")).to_sink(OUT))
    ((broken, _),) = run(app, [send(1)]).dead
    assert "the message to 'log' has 8000" in broken.error and "PARTITIONS_MESSAGE_BYTES" in broken.error


def test_the_key_for_a_computation_as_a_sink_is_taken_from_the_message_it_will_decode() -> None:
    taking = declare(lambda order, state: None, name="taking", state=Log, key=lambda order: order.item)
    typed = replace(taking, codec=MessageCodec(Order, "order"))
    app = built(begin().key_by(only_first).to(stage(same)).to_sink(SimpleNamespace(computation=typed)))
    (hop,) = run(app, [send({"item": "tea"})]).emitted
    assert isinstance(hop, Hop) and headers_of(hop.raw)["partition_key"] == "tea" and not run(app, [send({"no": 1})]).emitted


# Two ways into one state.


def test_two_sources_share_a_stages_state_in_one_batch() -> None:
    both = begin("a").key_by(key).merge(begin("b").key_by(key)).to(logging("log")).to(stage(raising))
    app = built(both.to_sink(OUT))
    raws = [send(instruction(0), "m0", "a"), send(instruction(1), "m1", "b"), send(instruction(2, "raise"), "m2", "a"), send(instruction(3), "m3", "b")]
    outcome = run(app, raws)
    assert [entry["n"] for entry in states(app, outcome)["log"]["k"]] == [0, 1, 3]
    assert [one["n"] for one in payloads(outcome)] == [0, 1, 3]
    assert [broken.message_id for broken, _ in outcome.dead] == ["m2"]


def test_a_source_and_a_hop_to_its_own_stage_share_its_state() -> None:
    log = logging("log")
    app = built(begin("a").key_by(key).merge(begin("b").key_by(only_first).to(stage(same)).key_by(key)).to(log).to_sink(OUT))
    (hop,) = run(app, [send(instruction(1), "h", "b")]).emitted
    assert isinstance(hop, Hop)
    outcome = run(app, [send(instruction(0), "m0", "a"), hop.raw, send(instruction(2), "m2", "a")])
    assert [entry["n"] for entry in states(app, outcome)["log"]["k"]] == [0, 1, 2]
