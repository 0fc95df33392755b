"""The short ways to a stage's only output make the same bytes, or the same failure, as the long one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest

from celery_partitions.model.caller import Caller
from celery_partitions.model.items import Misrouted, Reading, read_batch
from celery_partitions.model.message_codec import MessageCodec
from celery_partitions.model.outcome import Outcome
from celery_partitions.model.outputs import Outputs
from celery_partitions.model.topology import Topology
from celery_partitions.pipeline.sinks import RedisList
from tests.model.piped import Log, begin, built, run, send, stage


@dataclass
class Note:
    key: Any
    value: Any = None
    text: str = ""


@dataclass
class Narrow:
    key: str
    value: float


def key_of(note: Any) -> Any:
    if note.text == "no key":
        raise LookupError("no key")
    return note.key


def change(note: Note, log: Log) -> Any:
    match note.text:
        case "NaN":
            return Note(note.key, math.nan)
        case "wrong":
            return Narrow(note.key, "wrong")  # type: ignore[arg-type]
        case "dict":
            return {"key": note.key, "value": 1.5}
        case "other":
            return Note("another", note.value)
    return note


def second(note: Note, log: Log) -> None: ...


def narrow(note: Narrow, log: Log) -> None: ...


HEADERS: list[dict[str, Any]] = [
    {},
    {"sent_at": 1.25},
    {"sent_at": 7, "root_id": "root"},
    {"sent_at": True, "root_id": "m0"},
    {"sent_at": "yesterday", "root_id": 5},
    {"sent_at": None, "root_id": None},
    {"root_id": 'quo"ted \\ ü'},
]
NOTES = [
    *(Note(key, 1) for key in ("k", "ü", 'quo"ted', 7, True, "", "x" * 1500, None, ["k"])),
    *(Note("k", value) for value in (None, "null", {"__type__": "uuid"}, {"__pickle__": "x"}, {"__timer__": True}, "\u2028", 10**30)),
    *(Note("k", 1, text) for text in ("NaN", "wrong", "dict", "other", "no key")),
]


def result(outcome: Outcome) -> Any:
    return outcome.emitted, [(one.item.envelope.headers.id, one.error) for one in outcome.failures], outcome.states


@pytest.mark.parametrize("receiver", [second, narrow])
def test_both_ways_lead_to_the_same(monkeypatch: pytest.MonkeyPatch, receiver: Any) -> None:
    app = built(begin(type=Note).key_by(lambda note: "k").to(stage(change, state=Log)).key_by(key_of).to(stage(receiver, state=Log)).to_sinks([]))
    # Each note apart: after a failure, the messages before it would be applied again, in the long way. From the first message on, the partition of
    # "k" is known, without which there is no short way.
    known = send(Note("k", 1).__dict__, "known")
    batches = [[known, *(send(note.__dict__, f"m{n}", **headers) for n, headers in enumerate(HEADERS))] for note in NOTES]
    short_ways = []
    first_hop = Outputs.first_hop

    def counted(self: Outputs, *about: Any) -> Any:
        sound = first_hop(self, *about)

        def counting(item: Any, value: Any) -> Any:
            short_ways.append(sound(item, value))
            return short_ways[-1]

        return counting

    monkeypatch.setattr(Outputs, "first_hop", counted)
    short = [run(app, batch) for batch in batches]
    monkeypatch.setattr(Outputs, "first_hop", lambda self, computation, node: lambda item, value: None)
    monkeypatch.setattr(MessageCodec, "encode_usual", lambda self, message, decoded=b"": None)
    long = [run(app, batch) for batch in batches]
    assert [*map(result, short)] == [*map(result, long)]
    assert receiver is narrow or len([hop for hop in short_ways if hop is not None]) > 20


def write(note: Any) -> str | None:
    if note.text == "wrong":
        raise ValueError("not this one")
    return None if note.text == "other" else note.text


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("encoder", [None, write])
def test_both_ways_into_a_list_lead_to_the_same(monkeypatch: pytest.MonkeyPatch, encoder: Any, keyed: bool) -> None:
    def same_note(note: Note, log: Log) -> Note:
        return note

    pipeline = begin(type=Note).key_by(lambda note: "k").to(stage(same_note, state=Log))
    app = built((pipeline.key_by(key_of) if keyed else pipeline).to_sink(RedisList("out", encoder)))
    batches = [[send(note.__dict__, f"m{n}")] for n, note in enumerate(NOTES)]
    short = [run(app, batch) for batch in batches]
    monkeypatch.setattr(Caller, "only_stage", lambda self, computation: None)
    long = [run(app, batch) for batch in batches]
    assert [*map(result, short)] == [*map(result, long)]
    assert sum(len(one.emitted) for one in short) > 10


def test_the_ingress_applies_no_message_of_a_stage() -> None:
    app = built(begin(type=Note).key_by(lambda note: "k").to(stage(change, state=Log)).key_by(key_of).to(stage(second, state=Log)).to_sinks([]))
    raw = send(Note("k", 1).__dict__, task="second", partition_key="k")
    reading = Reading({**app.sources, **app.stages}, (), None, Topology(0, 1), has_pipelines=True)
    for _ in range(2):  # first the key's partition is not known
        (item,) = read_batch([raw], reading, now=0.0, revoked=())
        assert isinstance(item, Misrouted)
