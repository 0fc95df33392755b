"""`delay`, `apply_async`, signatures and `send_task`: each sends one validated message to the queue of its key."""

from __future__ import annotations

import base64
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
import redis
from celery import Celery

from celery_partitions import (
    DeclarationError,
    KeyExtractionError,
    MessageError,
    SetupError,
    computation,
    computation_multi,
    state_computation,
    state_computation_multi,
)
from celery_partitions_config.settings import Settings
from tests.producer.conftest import MakeApp
from tests.producer.declared import Trade, envelopes, note, partition, queues, update

AAPL = f"partition.{partition('AAPL')}"


def sent(client: redis.Redis, queue: str = AAPL) -> Any:
    """The arguments of the only message that was sent."""
    (envelope,) = envelopes(client, queue)
    return msgspec.json.decode(base64.b64decode(envelope["body"]))[:2]


@pytest.mark.parametrize(
    "message", [Trade("AAPL", 191.5), {"symbol": "AAPL", "price": 191.5}, {"symbol": "AAPL", "price": 191.5, "more": 1}]
)
def test_an_object_or_its_dict_goes_to_the_queue_of_its_key(app: Celery, client: redis.Redis, message: Any) -> None:
    update.delay(message)
    assert queues(client) == {AAPL: 1}
    (arguments, by_name) = sent(client)
    assert (arguments[0]["symbol"], arguments[0]["price"], by_name) == ("AAPL", 191.5, {})


@pytest.mark.parametrize("key", ["AAPL", "MSFT", "é", "", "日本", "a b"])
def test_the_queue_is_crc32_of_the_keys_utf8_modulo_n(app: Celery, client: redis.Redis, key: str) -> None:
    note.delay({"key": key})
    assert queues(client) == {f"partition.{partition(key)}": 1}


def test_values_without_a_json_form_are_written_as_the_worker_reads_them(app: Celery, client: redis.Redis) -> None:
    account = uuid.uuid4()
    update.delay(Trade("AAPL", 1.0, account))
    assert sent(client) == [[{"symbol": "AAPL", "price": 1.0, "account": str(account)}], {}]


def test_the_message_may_be_a_keyword_argument(app: Celery, client: redis.Redis) -> None:
    update.delay(trade=Trade("AAPL", 1.0))
    update.apply_async(kwargs={"trade": {"symbol": "AAPL", "price": 1.0}})
    assert queues(client) == {AAPL: 2}


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"symbol": "AAPL"}, r"missing required field `price`"),
        ({"symbol": "AAPL", "price": "dear"}, r"Expected `float`, got `str` - at `\$\.price`"),
        ({"symbol": 5, "price": 1.0}, r"at `\$\.symbol`"),
        ("AAPL", "Expected `object`"),
        (Trade("AAPL", "dear"), r"at `\$\.price`"),  # type: ignore[arg-type]
        (object(), "can't be encoded as JSON"),
    ],
)
def test_an_invalid_message_is_refused_with_the_fields_path_and_not_sent(
    app: Celery, client: redis.Redis, message: Any, text: str
) -> None:
    with pytest.raises(MessageError, match=text):
        update.delay(message)
    with pytest.raises(MessageError, match=text):
        update.send_many([message])
    assert queues(client) == {}


@pytest.mark.parametrize(("args", "kwargs"), [((), {}), ((1, 2), {}), ((), {"other": 1}), ((1,), {"trade": 1})])
def test_a_computation_takes_exactly_one_message(
    app: Celery, client: redis.Redis, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    with pytest.raises(MessageError, match=r"exactly one message \(trade\)"):
        update.delay(*args, **kwargs)
    assert queues(client) == {}


@pytest.mark.parametrize("send", [update.delay, lambda trade: update.send_many([trade]), lambda t: update.s(t).delay()])
def test_a_message_without_a_key_is_refused_with_the_exception_of_the_extractor(
    app: Celery, client: redis.Redis, send: Any
) -> None:
    with pytest.raises(KeyExtractionError, match="ValueError: a trade of nothing"):
        send(Trade("", 1.0))
    with pytest.raises(KeyExtractionError, match="not float"):
        note.delay({"key": 1.5})
    assert queues(client) == {}


def test_an_explicit_queue_overrides_the_key(app: Celery, client: redis.Redis) -> None:
    update.apply_async((Trade("AAPL", 1.0),), queue="partition")
    app.send_task(update.name, args=[{"symbol": "AAPL", "price": 1.0}], queue="elsewhere")
    assert queues(client) == {"partition": 1, "elsewhere": 1}


def test_celerys_options_become_celerys_headers(app: Celery, client: redis.Redis) -> None:
    before = datetime.now(UTC)
    message = (Trade("AAPL", 1.0),)
    update.apply_async(message, countdown=60, expires=90, task_id="my-id", headers={"tenant": "t", "sent_at": 1.5})
    update.apply_async(message, eta=before + timedelta(days=1))
    first, second = (envelope["headers"] for envelope in envelopes(client, AAPL))
    assert 60 <= (datetime.fromisoformat(first["eta"]) - before).total_seconds() < 120
    assert 90 <= (datetime.fromisoformat(first["expires"]) - before).total_seconds() < 150
    assert (first["id"], first["tenant"], first["sent_at"]) == ("my-id", "t", 1.5)
    assert datetime.fromisoformat(second["eta"]) == before + timedelta(days=1)
    assert abs(second["sent_at"] - before.timestamp()) < 60


def test_the_result_of_delay_has_the_messages_id(app: Celery, client: redis.Redis) -> None:
    result = update.delay(Trade("AAPL", 1.0))
    assert [envelope["headers"]["id"] for envelope in envelopes(client, AAPL)] == [result.id]


def test_signatures_are_routed_too(app: Celery, client: redis.Redis) -> None:
    update.s(Trade("AAPL", 1.0)).delay()
    update.si({"symbol": "AAPL", "price": 2.0}).apply_async()
    app.signature(update.name, args=[{"symbol": "AAPL", "price": 3.0}]).apply_async()
    update.si(trade=Trade("AAPL", 4.0)).apply_async()
    assert queues(client) == {AAPL: 4}
    assert update.s(trade=Trade("AAPL", 5.0)).kwargs == {"trade": {"symbol": "AAPL", "price": 5.0, "account": None}}


def test_send_task_of_a_computation_is_routed_by_its_key(app: Celery, client: redis.Redis) -> None:
    app.send_task(update.name, args=[{"symbol": "AAPL", "price": 1.0}])
    app.send_task(update.name, kwargs={"trade": {"symbol": "AAPL", "price": 2.0}})
    assert queues(client) == {AAPL: 2}


def test_send_task_refuses_an_invalid_message(app: Celery, client: redis.Redis) -> None:
    with pytest.raises(MessageError, match=r"\$\.price"):
        app.send_task(update.name, args=[{"symbol": "AAPL", "price": "dear"}])
    assert queues(client) == {}


def test_other_tasks_go_to_the_same_queues_as_before(app: Celery, client: redis.Redis) -> None:
    @app.task(name="ours", shared=False)
    def ours() -> None: ...

    app.send_task("another task", args=[1])
    ours.delay()
    assert queues(client) == {"celery": 2}


def test_a_producer_with_another_n_is_refused_with_both_numbers(
    app: Celery, make_app: MakeApp, client: redis.Redis, redis_url: str
) -> None:
    update.delay(Trade("AAPL", 1.0))
    other = make_app(redis_url, Settings(redis_url=redis_url, partitions=6))
    sends: list[Any] = [
        update.delay,
        lambda trade: update.send_many([trade]),
        lambda trade: other.send_task(update.name, args=[{"symbol": "AAPL", "price": 1.0}]),
    ]
    for send in sends:
        with pytest.raises(SetupError, match=r"has 4 partitions .* PARTITIONS=6"):
            send(Trade("AAPL", 1.0))
    assert queues(client) == {AAPL: 1}


def test_calling_a_computation_calls_the_plain_function() -> None:
    state = type("State", (), {"price": 0.0})()
    update(Trade("AAPL", 7.0), state)
    assert state.price == 7.0


@pytest.mark.parametrize("send", [lambda it: it.delay({}), lambda it: it.apply_async([{}]), lambda it: it.s({}), lambda it: it.send_many([{}])])
def test_a_computation_without_a_key_is_refused_with_the_reason(app: Celery, client: redis.Redis, send: Any) -> None:
    @computation("tests.producer: no key")
    def keyless(message: dict[str, Any]) -> None: ...

    with pytest.raises(KeyExtractionError, match=r"has no key=.* declare it with key="):
        send(keyless)
    assert queues(client) == {}


@pytest.mark.parametrize(
    ("decorator", "form"),
    [
        (computation, r"@computation\(name=…\)$"),
        (computation_multi, r"@computation\(name=…\)$"),
        (state_computation, r"@state_computation\(name=…, state=…\)$"),
        (state_computation_multi, r"@state_computation_multi\(name=…, state=…\)$"),
    ],
)
def test_a_decorator_without_parentheses_is_refused_where_it_is_used(decorator: Any, form: str) -> None:
    with pytest.raises(DeclarationError, match=form):

        @decorator
        def bare(message: dict[str, Any]) -> None: ...


def test_states_of_a_single_text_are_refused_because_its_characters_would_be_keys(app: Celery) -> None:
    with pytest.raises(TypeError, match="call state"):
        update.states("AAPL")


def test_a_call_with_the_messages_fields_says_how_to_send_one_object(app: Celery) -> None:
    with pytest.raises(MessageError, match=r"0 positional and 2 keyword arguments\. Send one object: update\.delay\(Trade\(…\)\)$"):
        update.delay(symbol="AAPL", price=1.0)
    with pytest.raises(MessageError, match=r"Send one object: note\.delay\(message\)$"):
        note.delay(key="k", other=1)
