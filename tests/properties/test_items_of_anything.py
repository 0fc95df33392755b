"""Reading a queue never raises, whatever is in it, and gives one item per message."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any, TypedDict

import msgspec
import pydantic
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from celery_partitions.model.declaration import declare
from celery_partitions.model.effects import ParkedKey
from celery_partitions.model.items import DeadLetterItem, Item, Misrouted, Work
from celery_partitions.model.step import step
from celery_partitions.store.names import Names
from tests.model.build import read, rules, slots_for
from tests.store.declared import commands_of_outcome


@dataclass
class Trade:
    symbol: str
    price: float


class StructTrade(msgspec.Struct):
    symbol: str


class DictTrade(TypedDict):
    symbol: str


class ModelTrade(pydantic.BaseModel):
    symbol: str


def _symbol(message: Any) -> Any:
    return message["symbol"] if isinstance(message, dict) else message.symbol


def _computation(name: str, annotation: Any) -> Any:
    def apply(message: Any, state: Any) -> None:
        state["last"] = message

    if annotation is not None:
        apply.__annotations__["message"] = annotation
    return declare(apply, name=name, state=dict, key=_symbol)


COMPUTATIONS = [
    _computation("untyped", None),
    _computation("typed", Trade),
    _computation("struct", StructTrade),
    _computation("dict", DictTrade),
    _computation("model", ModelTrade),
]
NAMES = [each.name for each in COMPUTATIONS]

scalars = st.none() | st.booleans() | st.integers(-(10**30), 10**400) | st.floats(allow_nan=False) | st.text(max_size=8)
texts = st.sampled_from(["symbol", "price", "__type__", "__value__", "message", "hex", "task", "id", "args", "kwargs"])
anything = st.recursive(
    scalars | texts | st.sampled_from(["uuid", "datetime", "bytes", "base64", "decimal", "date"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts | st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
users_messages = anything | st.fixed_dictionaries({"symbol": st.text(max_size=5), "price": st.floats(-1e9, 1e9)})
fitting = st.builds(
    lambda symbol, price: [[{"symbol": symbol, "price": price}], {}, {}], st.text(max_size=5), st.floats(-1e9, 1e9)
)
# One in three is valid, so that the steps after reading are tested too.
contents = anything | st.builds(lambda m: [[m], {}, {}], users_messages) | st.lists(anything, max_size=4) | fitting
contents |= fitting | fitting
contents |= st.fixed_dictionaries(
    {"task": st.sampled_from(NAMES) | anything, "id": st.text() | anything, "args": anything, "kwargs": anything}
)


def _chance(usual: Any, odd: Any = anything) -> Any:
    return st.sampled_from([usual] * 6 + [None]).flatmap(lambda chosen: odd if chosen is None else st.just(chosen))


@st.composite
def raw_messages(draw: st.DrawFn) -> bytes:
    """Messages of the right form in which any part may be anything or missing."""
    body = json.dumps(draw(contents)).encode()
    encoded: Any = base64.b64encode(body).decode()
    if draw(st.booleans()):  # only the content may be invalid
        return json.dumps(
            {
                "body": encoded,
                "content-type": "application/json",
                "headers": {"task": draw(st.sampled_from(NAMES)), "id": "id-1"},
                "properties": {"delivery_tag": "t", "delivery_info": {"exchange": "q"}, "body_encoding": "base64"},
            }
        ).encode()
    message = {
        "body": draw(_chance(encoded)),
        "content-type": draw(_chance("application/json")),
        "headers": draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "task": _chance("typed", st.sampled_from(NAMES) | anything),
                    "id": _chance("id-1"),
                    "eta": anything,
                    "expires": anything,
                    "compression": _chance(None, st.sampled_from(["gzip", "zlib"]) | anything),
                    "sent_at": anything,
                },
            )
            | st.fixed_dictionaries(
                {"task": st.sampled_from([*NAMES, "mail"]), "id": st.just("id-1")},
                optional={"eta": st.just(5_000), "expires": st.just(5)},
            )
            | st.fixed_dictionaries({"task": st.sampled_from(NAMES), "id": st.just("id-1")})
            | anything
        ),
        "properties": draw(
            _chance({"delivery_tag": "t", "delivery_info": {"exchange": "q"}, "body_encoding": "base64"})
            | st.fixed_dictionaries({"delivery_tag": anything, "delivery_info": anything})
        ),
    }
    for name in draw(st.lists(st.sampled_from(sorted(message)), max_size=1)):
        del message[name]
    return json.dumps(message, ensure_ascii=draw(st.booleans())).encode("utf-8", "replace")


def one_item_each(raws: list[bytes], **how: Any) -> list[Item]:
    items = read(COMPUTATIONS, raws, **how)
    assert [item.raw for item in items] == raws
    for item in items:
        if isinstance(item, DeadLetterItem):
            # Each has one of the documented reasons, and can be written as a dead letter.
            assert item.reason not in ("unforeseen", "bad-message") and item.error.encode()
    return items


@given(st.lists(st.binary(max_size=300), max_size=5), st.sampled_from([0, 1, None]))
def test_any_bytes_give_one_broken_item_each(raws: list[bytes], partition: int | None) -> None:
    assert all(isinstance(item, DeadLetterItem) for item in one_item_each(raws, partition=partition, partitions=2))


@given(st.lists(raw_messages(), min_size=1, max_size=4), st.sampled_from([0, 1, None]))
@example([b'{"headers":{"task":"typed","id":"i","eta":1e306}}'], 0)
def test_any_json_in_any_part_of_a_message_gives_one_item_each(raws: list[bytes], partition: int | None) -> None:
    one_item_each(raws, partition=partition, partitions=2, plain_task={"mail"}, revoked={"id-9"})


@given(st.lists(raw_messages(), min_size=1, max_size=4))
def test_the_step_accepts_whatever_was_read_and_its_effects_can_be_written(raws: list[bytes]) -> None:
    items = one_item_each(raws)
    outcome = step(items, slots_for(items, {}), rules())
    assert outcome.taken == len(raws)
    parked = {key: ParkedKey(5.0, 2, dead_letter="0-1-p0") for key in outcome.parked}
    commands = list(commands_of_outcome(outcome, Names("partition"), "0", 1, 1_000.0, parked))
    assert all(isinstance(word, str | bytes | int | float) for command in commands for word in command)
    left = len(outcome.done) + len(outcome.dead) + len(outcome.skipped) + len(outcome.delayed)
    assert left + sum(map(len, outcome.mailed.values())) == len(raws)


#: What became of the messages of `raw_messages` in the test below.
kinds: set[type] = set()


def test_not_all_generated_messages_are_invalid() -> None:
    kinds.clear()
    _collect_kinds()
    assert kinds >= {Work, Misrouted, DeadLetterItem}


@settings(max_examples=500, derandomize=True, database=None, phases=[Phase.generate])
@given(raw_messages())
def _collect_kinds(raw: bytes) -> None:
    kinds.add(type(read(COMPUTATIONS, [raw], partitions=2, plain_task={"mail"})[0]))
