"""What must be true for any bytes. Each target is a function of bytes that raises if it is not."""

from __future__ import annotations

import base64
import gzip
import pickle
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import msgspec

from celery_partitions.admin.dead_letters import _read, fingerprint, raw_text
from celery_partitions.admin.state_json import plain_fields, plain_value, state_from_json
from celery_partitions.admin.transfer import read_header, read_records
from celery_partitions.cli.context import shown_key, typed_key
from celery_partitions.cli.files import Rows
from celery_partitions.model.declaration import declare
from celery_partitions.model.effects import ParkedKey
from celery_partitions.model.errors import MessageError, SetupError, StateError
from celery_partitions.model.items import DeadLetterItem, Reading, condemned, read_batch
from celery_partitions.model.message_key import key_in
from celery_partitions.model.message_writer import TIMER_BODY
from celery_partitions.model.messages import details_of, name_of
from celery_partitions.model.restricted_pickle import unsigned_loader
from celery_partitions.model.state import StateClass
from celery_partitions.model.step import step
from celery_partitions.model.topology import Topology
from celery_partitions.pipeline.sinks import RedisStream
from celery_partitions.pipeline.windows import count_windows
from celery_partitions.store.codec import StateCodec
from celery_partitions.store.names import Names
from celery_partitions.store.record import SIGNED, UNSIGNED
from tests.fuzz import pickle_programs
from tests.model import pickled, piped
from tests.model.build import CODEC, raw_envelope, rules, slots_for
from tests.model.pickled import State
from tests.model.test_timers import Gather
from tests.properties.test_items_of_anything import COMPUTATIONS, Trade
from tests.store.declared import commands_of_outcome

NAMES = Names("partition")
_BEGUN = piped.begin(event_time=lambda value: value).key_by(str).to(piped.logging("log"))
PIPELINE = piped.built(_BEGUN.to(count_windows(2).over(Gather)).to_sink(RedisStream("out")))
READING = Reading({one.name: one for one in COMPUTATIONS}, {"mail"}, 0, Topology(0, 1))
STATED = declare(lambda message, state: None, name="stated", state=State, key=str)
SIGNING = StateCodec((b"a secret signing key",))


@dataclass
class Total:
    """A state with typed fields."""

    amount: int = 0
    by_day: dict[str, float] = field(default_factory=dict)


class Trading:
    """A state that is created from JSON."""

    price = 0.0
    trades: list[Any] = []  # noqa: RUF012


STATE_CLASSES = [StateClass(Trading), StateClass(Total), StateClass(dict)]


def messages(data: bytes) -> None:
    """The bytes as a raw message, and as a body, plain and compressed: each gives one item, whose effects can be written."""
    task = COMPUTATIONS[len(data) % len(COMPUTATIONS)].name
    raws = [
        data,
        raw_envelope(data, headers={"task": task}),
        raw_envelope(gzip.compress(data, 1), headers={"task": task, "compression": "gzip"}),
        raw_envelope(data, headers={"task": task, "compression": "zlib"}),
        raw_envelope(data, headers={"task": None}),
    ]
    items = read_batch(raws, READING, now=1_000.0, revoked={"id"})
    assert [item.raw for item in items] == raws
    for item in items:
        assert not isinstance(item, DeadLetterItem) or item.reason not in ("unforeseen", "bad-message"), item
    outcome = step(items, slots_for(items, {}), rules())
    assert outcome.taken == len(raws)
    parked = {key: ParkedKey(5.0, 2, dead_letter="0-1-p0") for key in outcome.parked}
    commands_of_outcome(outcome, NAMES, "0", 1, 1_000.0, parked)
    for raw, item in zip(raws, items, strict=True):
        name_of(raw)
        details_of(raw)
        condemned(item, "it killed")
        key_in(raw, READING.computations)


def stages(data: bytes) -> None:
    """The bytes as the body and as headers of messages to pipeline stages: each message is applied or a dead letter, and its
    outputs can be written."""
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = data.decode("utf-8", "replace")
    fields = {"partition_key": value, "event_time": value, "timer": value, "root_id": value, "sent_at": value}
    raws = []
    for task in ("log", "gather"):
        raws += [
            raw_envelope(data, headers={"task": task, "partition_key": "k"}),
            raw_envelope(b"[[1],{},{}]", headers={"task": task, **fields}),
            raw_envelope(b"[[1],{},{}]", headers={"task": task, **fields, "partition_key": "k"}),
            raw_envelope(TIMER_BODY, headers={"task": task, **fields, "partition_key": "k"}),
            raw_envelope(b'[[{"__pickle__":"' + base64.b64encode(data) + b'"}],{},{}]', headers={"task": task, "partition_key": "k"}),
        ]
    for item in piped.read(PIPELINE, raws):
        assert not isinstance(item, DeadLetterItem) or item.reason not in ("unforeseen", "bad-message"), item
    outcome = piped.run(PIPELINE, raws, now=1_000.0)
    assert outcome.taken == len(raws)
    commands_of_outcome(outcome, NAMES, "0", 1, 1_000.0)
    for raw in raws:
        key_in(raw, PIPELINE.stages)


def states(data: bytes) -> None:
    """The bytes as a stored state, signed or not: a state of the class or `StateError`. Without a right signature nothing is unpickled."""
    with suppress(StateError):
        SIGNING.load(STATED, "key", data)
        raise AssertionError("unsigned bytes were unpickled")
    with suppress(StateError):
        SIGNING.load(STATED, "key", SIGNED + data)
        raise AssertionError("unsigned bytes were unpickled")
    SIGNING.meta("stated", "key", data)
    with suppress(StateError):
        state = CODEC.load(STATED, "key", UNSIGNED + data)
        assert isinstance(state, State)
        with suppress(StateError, pickle.PicklingError, TypeError, RecursionError, ValueError, AttributeError):
            CODEC.load(STATED, "key", CODEC.dump(STATED, "key", state))


def files(data: bytes) -> None:
    """The bytes as a file for `send` or `import`: messages or records, or an error that names the line."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        for computation in COMPUTATIONS[:3]:
            for form in ("csv", "jsonl"):
                with suppress(MessageError):
                    list(Rows(file.name, form, computation))
        with suppress(SetupError):
            read_header(Path(file.name))
            list(read_records(Path(file.name)))


def operators(data: bytes) -> None:
    """The bytes as arguments of commands, and as records that the commands read from Redis."""
    text = data.decode("utf-8", "surrogateescape")
    for state_class in STATE_CLASSES:
        with suppress(StateError):
            made = state_from_json(state_class, data)
            msgspec.json.encode(plain_value(plain_fields(made)))
    for in_base64 in (False, True):
        with suppress(click.UsageError, MessageError):
            shown_key(typed_key(text, in_base64))
    for row in (data, b'{"raw": "' + base64.b64encode(data) + b'"}'):
        dead_letter = _read(data, row, "0")
        fingerprint(dead_letter)
        raw_text(dead_letter)
        msgspec.json.encode(dead_letter)


pickled.Shared()
_UNSIGNED = pickle_programs.loader(unsigned_loader)


def programs(data: bytes) -> None:
    """The bytes as choices of opcodes for an unsigned pickle: reading it changes nothing in the process."""
    before = pickle_programs.process()
    pickle_programs.read(_UNSIGNED, pickle_programs.program(data))
    assert pickle_programs.changes(before) == []


TARGETS: dict[str, Callable[[bytes], None]] = {
    "messages": messages,
    "stages": stages,
    "states": states,
    "programs": programs,
    "files": files,
    "operators": operators,
}


def seeds(target: str) -> list[bytes]:
    """Initial inputs of the right form."""
    state = State()
    state.value = {"a": [1, 2.5, "x", None], "b": (1, {2})}
    trading = b'{"price": 1.5, "trades": [1]}'
    return {
        "messages": [
            raw_envelope(b'[[{"symbol": "A", "price": 1.5}], {}, {}]', headers={"task": "typed"}),
            b'[[{"symbol": "A", "price": 1.5}], {}, {}]',
            b'[[], {"message": {"symbol": "A"}}, {}]',
            b'{"task": "typed", "id": "i", "args": [{"symbol": "A", "price": 1}], "kwargs": {}}',
            b'[[{"symbol": {"__type__": "uuid", "__value__": {"hex": "00000000000000000000000000000001"}}}], {}, {}]',
        ],
        "stages": [
            b'[["value"],{},{}]',
            b'"key"',
            b'{"base64": "dGVh"}',
            b"1700000000.5",
            TIMER_BODY,
            piped.SIGNING.dump_value("log", "m0", (1,)),
        ],
        "states": [pickle.dumps(state, 5), pickle.dumps(state, 0), SIGNING.seal("stated", "key", b"N.")[:-1]],
        "programs": [bytes(range(40)), bytes(range(100, 140))],
        "files": [
            b"symbol,price\nA,1.5\nB,2\n",
            msgspec.json.encode(Trade("A", 1.5)) + b"\n",
            b'{"kind":"header","format":"celery-partitions export","version":1,"group":"g","partitions":4,"at":1.0}\n'
            b'{"kind":"message","partition":"0","message":"eA=="}\n{"kind":"end","records":1}\n',
        ],
        "operators": [trading, base64.b64encode(b"key"), b"0-1-0"],
    }[target]
