"""`install`: a project keeps its app with everything in it."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import redis
from celery import Celery

from celery_partitions import (
    DeclarationError,
    SetupError,
    computation,
    computation_multi,
    install,
    state_computation,
    state_computation_multi,
)
from celery_partitions.runtime.installation import refuse_other_brokers
from celery_partitions.runtime.registry import _installations, current_installation, declared, installation_of
from celery_partitions.store.client import connect
from celery_partitions_config.resolution import resolve
from celery_partitions_config.settings import Settings
from tests.model.pickled import Rebuilt
from tests.producer.conftest import MakeApp
from tests.producer.declared import Last, Trade, partition, queues, symbol_of, update

AAPL = f"partition.{partition('AAPL')}"
MESSAGE = {"symbol": "AAPL", "price": 1.0}


def test_install_returns_the_app_and_a_second_call_changes_nothing(app: Celery, settings: Settings) -> None:
    first = installation_of(app)
    assert install(app, Settings(redis_url=settings.redis_url, partitions=9)) is app
    assert installation_of(app) is first
    assert installation_of(Celery("other", set_as_current=False)) is None


def test_every_declared_computation_is_a_task_of_the_app(app: Celery) -> None:
    assert update.name in app.tasks
    assert update.task is app.tasks[update.name]
    assert update.task.__doc__ == "Keep the last price."


def test_a_computation_declared_after_install_is_a_task_too(app: Celery, client: redis.Redis) -> None:
    @computation("tests.producer: late", key=lambda message: message)
    def late(message: str) -> None: ...

    try:
        assert late.name in app.tasks
        late.delay("AAPL")
        assert queues(client) == {AAPL: 1}
    finally:
        del declared[late.name]


def test_computations_use_the_app_that_was_installed_last(
    app: Celery, make_app: MakeApp, settings: Settings, client: redis.Redis
) -> None:
    last = make_app(settings.redis_url, settings)
    assert current_installation().app is last
    update.delay(MESSAGE)
    app.send_task(update.name, args=[MESSAGE])
    assert queues(client) == {AAPL: 2}


OTHER_ROUTES: dict[str, Any] = {
    "dict": {"report": "reports"},
    "list": [{"report": {"queue": "reports"}}],
    "tuple": ({"report": {"queue": "reports"}},),
    "function": lambda name, *_, **__: {"queue": "reports"} if name == "report" else None,
}


@pytest.mark.parametrize("form", OTHER_ROUTES)
def test_the_apps_own_routes_are_kept_in_every_form(
    make_app: MakeApp, settings: Settings, client: redis.Redis, form: str
) -> None:
    app = make_app(settings.redis_url, settings, task_routes=OTHER_ROUTES[form])
    app.send_task("report")
    app.send_task("another")
    app.send_task(update.name, args=[MESSAGE])
    assert queues(client) == {"reports": 1, "celery": 1, AAPL: 1}


@pytest.mark.parametrize("configured", [True, False])
def test_install_works_before_and_after_the_app_is_configured(
    make_app: MakeApp, settings: Settings, client: redis.Redis, configured: bool
) -> None:
    app = Celery("shop", broker=settings.redis_url, set_as_current=False)
    app.config_from_object(types.SimpleNamespace(task_routes={"report": "reports"}, task_default_queue="mine"))
    if configured:
        assert app.conf.task_default_queue == "mine"
    assert app.configured is configured
    make_app(app, settings)
    app.send_task("report")
    app.send_task("another")
    app.send_task(update.name, args=[MESSAGE])
    assert queues(client) == {"reports": 1, "mine": 1, AAPL: 1}


def test_settings_in_code_without_a_url_use_the_apps_broker(
    make_app: MakeApp, settings: Settings, client: redis.Redis
) -> None:
    app = make_app(settings.redis_url, Settings(partitions=2))
    found = installation_of(app)
    assert found is not None
    assert (found.settings.redis_url, found.settings.partitions) == (settings.redis_url, 2)
    update.send_many([MESSAGE])
    assert sum(queues(client).values()) == 1


@pytest.mark.parametrize(
    "send", [update.delay, lambda message: update.send_many([message]), lambda _: update.state("k")]
)
def test_a_broker_that_is_not_the_redis_of_the_settings_is_refused(
    make_app: MakeApp, settings: Settings, client: redis.Redis, send: Any
) -> None:
    make_app(settings.redis_url, Settings(redis_url="redis://127.0.0.1:1/7"))
    with pytest.raises(SetupError, match=r"different servers or databases.*Leave redis_url out"):
        send(MESSAGE)
    assert queues(client) == {}


@pytest.mark.parametrize("name", ["broker_write_url", "broker_read_url"])
@pytest.mark.parametrize("send", [update.delay, lambda message: update.send_many([message])])
def test_an_app_that_sends_or_reads_elsewhere_is_refused(make_app: MakeApp, settings: Settings, client: redis.Redis, name: str, send: Any) -> None:
    app = make_app(settings.redis_url, None)
    app.conf[name] = settings.redis_url.removesuffix("/0") + "/3"
    with pytest.raises(SetupError, match=rf"{name} and broker_url of the app name different servers.*Leave {name} out"):
        send(MESSAGE)
    assert queues(client) == {}


def test_the_same_broker_in_other_words_is_not(make_app: MakeApp, settings: Settings, client: redis.Redis) -> None:
    app = make_app(settings.redis_url, None)
    app.conf.broker_write_url = settings.redis_url.removesuffix("/0").replace("redis://", "redis://default:@") + "/"
    update.send_many([MESSAGE])
    assert sum(queues(client).values()) == 1


def test_the_apps_broker_is_used_if_redis_url_belongs_to_something_else(
    make_app: MakeApp, settings: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://:secret@cache:6379/7")
    make_app(settings.redis_url, None)
    update.delay(MESSAGE)
    update.send_many([MESSAGE])
    assert queues(client) == {AAPL: 2}


@pytest.mark.parametrize("tail", ["", "/", "/0"])
def test_a_url_with_and_without_database_0_is_the_same_place(make_app: MakeApp, tail: str) -> None:
    app = make_app(f"redis://127.0.0.1:1{tail}", Settings(redis_url="redis://127.0.0.1:1/0"))
    found = installation_of(app)
    assert found is not None and found.settings.redis_url == "redis://127.0.0.1:1/0"


@pytest.mark.parametrize("broker", ["amqp://guest@127.0.0.1:1//", "memory://", "sqs://"])
@pytest.mark.parametrize("configured", [True, False])
def test_a_broker_that_is_not_redis_is_refused_by_name(make_app: MakeApp, broker: str, configured: bool) -> None:
    app = Celery("shop", broker=broker, set_as_current=False)
    if configured:
        assert not app.conf.task_always_eager
    with pytest.raises(SetupError, match=f"broker is {broker.partition(':')[0]}://.* begins with redis://"):
        make_app(app, Settings())
        update.delay(MESSAGE)


@pytest.mark.parametrize("broker", ["127.0.0.1:6379", "localhost:6379", ":secret@db:6379/0"])
def test_a_broker_url_without_a_scheme_is_refused_without_showing_its_password(broker: str) -> None:
    with pytest.raises(SetupError, match=r"URL without a scheme\. Set REDIS_URL .* begins with redis://") as refused:
        refuse_other_brokers(broker)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("as_list", [True, False])
@pytest.mark.parametrize("send", [update.delay, lambda message: update.send_many([message])])
def test_a_failover_url_is_refused_because_queue_and_state_could_be_in_two_databases(
    make_app: MakeApp, settings: Settings, client: redis.Redis, as_list: bool, send: Any
) -> None:
    broker: Any = [settings.redis_url] * 2 if as_list else f"{settings.redis_url};{settings.redis_url}"
    make_app(Celery("shop", broker=broker, set_as_current=False), Settings())
    with pytest.raises(SetupError, match=r"several servers.*one URL.*sentinel://"):
        send(MESSAGE)
    assert queues(client) == {}


def test_a_list_with_one_broker_is_accepted(make_app: MakeApp, settings: Settings, client: redis.Redis) -> None:
    make_app(Celery("shop", broker=[settings.redis_url], set_as_current=False), Settings())
    update.delay(MESSAGE)
    update.send_many([MESSAGE])
    assert queues(client) == {AAPL: 2}


SENTINELS = "sentinel://127.0.0.1:1;sentinel://127.0.0.1:2"


def sentinel_settings(make_app: MakeApp, settings: Settings, **options: Any) -> Settings:
    found = installation_of(make_app(SENTINELS, settings, broker_transport_options=options))
    assert found is not None
    return found.settings


@pytest.mark.parametrize("url", [None, SENTINELS])
def test_the_master_is_the_one_in_the_apps_transport_options(make_app: MakeApp, url: str | None) -> None:
    kwargs = {"password": "watcher"}
    found = sentinel_settings(make_app, Settings() if url is None else Settings(redis_url=url), master_name="orders", sentinel_kwargs=kwargs)
    assert (found.redis_sentinel_master, dict(found.redis_sentinel_kwargs)) == ("orders", kwargs)
    assert "watcher" not in repr(found)
    with connect(found) as ours:
        assert ours.connection_pool.service_name == "orders"


def test_the_master_of_the_settings_is_used_if_the_app_names_none_and_another_is_refused(make_app: MakeApp) -> None:
    ours = Settings(redis_url=SENTINELS, redis_sentinel_master="prices")
    assert sentinel_settings(make_app, ours).redis_sentinel_master == "prices"
    assert sentinel_settings(make_app, ours, master_name="prices").redis_sentinel_master == "prices"
    with pytest.raises(SetupError, match=r"PARTITIONS_REDIS_SENTINEL_MASTER is 'prices', but master_name .*'orders'.*Unset"):
        sentinel_settings(make_app, ours, master_name="orders")


@pytest.mark.parametrize("configured", [True, False])
def test_an_app_without_a_broker_uses_the_redis_of_the_settings(
    make_app: MakeApp, settings: Settings, client: redis.Redis, configured: bool
) -> None:
    app = Celery("shop", set_as_current=False)
    if configured:
        assert not app.conf.task_always_eager
    make_app(app, settings)
    update.delay(MESSAGE)
    update.send_many([MESSAGE])
    app.send_task("report")
    assert queues(client) == {AAPL: 2, "celery": 1}


def test_a_name_declared_twice_is_refused_with_both_places(app: Celery) -> None:
    def other(trade: Trade, state: Last) -> None: ...

    other.__module__ = "shop.other"
    with pytest.raises(DeclarationError, match=r"declared twice: as a computation in tests\.producer\.declared and as a computation in shop\.other"):
        state_computation(update.name, state=Last, key=symbol_of)(other)
    assert declared[update.name] is update.computation


@pytest.mark.parametrize(
    ("name", "formerly", "text"),
    [
        ("tests.producer: new", update.name, "is the name of two computations"),
        ("tests.producer: new", "tests.producer: new", "what it was called before, not its name"),
        ("tests.producer: new", [""], "needs a name"),
    ],
)
def test_a_former_name_that_cannot_be(app: Celery, name: str, formerly: Any, text: str) -> None:
    with pytest.raises(DeclarationError, match=text):
        state_computation(name, state=Last, key=symbol_of, formerly=formerly)(update.__wrapped__)
    assert name not in declared


@pytest.mark.parametrize(
    "declare",
    [
        lambda: state_computation("tests.producer: new", state=Last, key=symbol_of, colour=1),
        lambda: state_computation_multi("tests.producer: new", state=Last, reply=True),
        lambda: computation("tests.producer: new", key=symbol_of, on_expire=None),
        lambda: computation_multi("tests.producer: new", flush_every=2),
        lambda: update.on_timer("tests.producer: new", colour=1)(update.__wrapped__),
    ],
)
def test_an_option_that_a_decorator_does_not_have_is_refused(declare: Callable[[], object]) -> None:
    with pytest.raises(TypeError, match=r"unexpected keyword argument '(colour|reply|on_expire|flush_every)'"):
        declare()
    assert "tests.producer: new" not in declared


def test_a_state_computation_without_a_name_is_refused_with_the_form() -> None:
    for declare in (lambda: state_computation(state=Last, key=symbol_of), lambda: state_computation(update.__wrapped__)):  # type: ignore[call-arg,arg-type]
        with pytest.raises(DeclarationError, match=r"needs a name.*@state_computation\(name=…, state=…\)"):
            declare()


def test_a_producer_may_send_by_a_former_name(app: Celery, client: redis.Redis) -> None:
    try:
        state_computation("tests.producer: new", state=Last, key=symbol_of, formerly="tests.producer: former")(update.__wrapped__)
        with pytest.raises(DeclarationError, match="is the name of two computations"):
            state_computation("tests.producer: former", state=Last, key=symbol_of)(update.__wrapped__)
        app.send_task("tests.producer: former", args=[MESSAGE])
        assert queues(client) == {AAPL: 1}
    finally:
        declared.pop("tests.producer: new")


def test_a_module_can_be_imported_again(app: Celery) -> None:
    again = state_computation(update.name, state=Last, key=symbol_of)(update.__wrapped__)
    assert declared[update.name] is again.computation
    declared[update.name] = update.computation


def test_a_state_that_no_worker_could_read_back_is_refused_on_declaration_or_install(
    monkeypatch: pytest.MonkeyPatch, app: Celery, make_app: MakeApp, settings: Settings
) -> None:
    """The app's settings decide what is allowed, so the later of the two steps refuses it."""

    def declare() -> None:
        state_computation("tests.producer: rebuilt", state=Rebuilt, key=symbol_of)(lambda trade, state: None)

    allowing = replace(settings, state_modules=("tests.model.pickled:rebuild",))
    says = r"Rebuilt could not be read back.*PARTITIONS_STATE_MODULES=tests\.model\.pickled:rebuild"
    with pytest.raises(DeclarationError, match=says):
        declare()
    assert "tests.producer: rebuilt" not in declared
    for installation in _installations:  # the test's own app, and `celery_partitions.app` if another module created it
        monkeypatch.setitem(vars(installation), "resolved", resolve(allowing))
    try:
        declare()
        with pytest.raises(DeclarationError, match=says):
            make_app(settings.redis_url, settings)
        make_app(settings.redis_url, allowing)
    finally:
        declared.pop("tests.producer: rebuilt", None)
