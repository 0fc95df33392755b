"""Flower is reachable from this machine only, unless it has a login. Its errors say what to set."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.flower import READY_SECONDS, FlowerProcess
from tests.support.python_process import run_python
from tests.support.worker import ROOT

Start = Callable[..., FlowerProcess]
#: Another address of this machine. A server on all interfaces answers there; one on 127.0.0.1 does not.
ELSEWHERE = "127.0.0.2"


@pytest.fixture
def start_flower(redis_url: str, tmp_path: Path) -> Iterator[Start]:
    """Start Flower with more arguments and environment variables."""
    with ExitStack() as stack:

        def start(*words: str, **env: str) -> FlowerProcess:
            made = FlowerProcess("celery_partitions.demo.stocks", *words, directory=tmp_path, env={"REDIS_URL": redis_url, **env})
            return stack.enter_context(made)

        yield start


@pytest.mark.parametrize("words", [(), ("--address=127.0.0.1",)])
def test_without_a_login_only_this_machine_reaches_it(start_flower: Start, words: tuple[str, ...]) -> None:
    flower = start_flower(*words).wait_ready()
    assert flower.get("/healthcheck", host=ELSEWHERE)[0] == 0


@pytest.mark.parametrize(
    ("words", "env"),
    [
        (("--address=0.0.0.0",), {}),
        (("--address=",), {}),
        (("-address=::",), {}),
        (("--address=flower.example.com",), {}),
        ((), {"FLOWER_ADDRESS": "0.0.0.0"}),
    ],
)
def test_on_another_address_it_refuses_to_start_without_a_login(
    start_flower: Start, words: tuple[str, ...], env: dict[str, str]
) -> None:
    flower = start_flower(*words, **env)
    assert flower.process.wait(timeout=READY_SECONDS) == 1
    log = flower.log()
    assert "Flower does not start" in log and "Set FLOWER_BASIC_AUTH=user:password" in log
    assert "Traceback" not in log


def test_options_as_other_commands_take_them_are_refused_with_the_right_form(start_flower: Start) -> None:
    flower = start_flower("--port", "5555")
    assert flower.process.wait(timeout=READY_SECONDS) == 2
    assert "Write options as --name=value, for example --port=5555" in flower.log()
    assert "Traceback" not in flower.log()


def test_with_a_login_it_listens_on_the_given_address_and_requires_it(start_flower: Start) -> None:
    flower = start_flower("--address=0.0.0.0", FLOWER_BASIC_AUTH="me:secret").wait_ready()
    assert flower.get("/workers", host=ELSEWHERE)[0] == 401
    assert flower.get("/workers", host=ELSEWHERE, login="me:wrong")[0] == 401
    assert flower.get("/workers", host=ELSEWHERE, login="me:secret")[0] == 200
    assert flower.get("/api/workers", host=ELSEWHERE)[0] == 401


def test_our_flower_has_the_partitions_pages_and_stock_flower_has_not(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "project.py").write_text("from celery_partitions import app\nfrom celery_partitions.demo import stocks\n__all__ = ['app', 'stocks']\n")
    env = {"REDIS_URL": redis_url, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    plain = FlowerProcess("project", "--address=127.0.0.1", directory=tmp_path, env=env, command=("flower",))
    with FlowerProcess("project", directory=tmp_path, env=env) as ours, plain:
        assert ours.wait_ready().get("/partitions")[0] == 200
        assert b">Partitions</a>" in ours.get("/workers")[1]
        assert plain.wait_ready().get("/partitions")[0] == 404
        assert b"Partitions" not in plain.get("/workers")[1]


@pytest.mark.parametrize(
    ("words", "env", "text"),
    [
        (["--conf=mine.py"], {}, "--conf cannot be used: Flower reads our configuration through it"),
        ([], {"PARTITIONS_DASHBOARD_HOSTS": "http://example.com"}, "PARTITIONS_DASHBOARD_HOSTS='http://example.com' is not valid: expected names"),
    ],
)
def test_an_error_is_one_line(redis_url: str, words: list[str], env: dict[str, str], text: str) -> None:
    arguments = ("celery", "-A", "celery_partitions.demo.stocks", "partitions", "flower", *words)
    done = run_python(*arguments, directory=ROOT, environment={**os.environ, "REDIS_URL": redis_url, **env})
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1].startswith(f"Error: {text}")
