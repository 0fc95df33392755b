"""The README does what it says: its examples run as they stand, its settings are the settings, its proofs exist."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from tests.support.environment import setting_names
from tests.support.wait import wait_until
from tests.support.worker import ROOT

README = (ROOT / "README.md").read_text()


def block(language: str, containing: str) -> str:
    """The fenced block of a language that has a text in it."""
    found = [text for text in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if containing in text]
    assert len(found) == 1, f"{len(found)} {language} blocks contain {containing!r}"
    return found[0]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the README's stocks.py in it, and nothing else."""
    (tmp_path / "stocks.py").write_text(block("python", "# stocks.py"))
    return tmp_path


def run_python(code: str, project: Path, redis_url: str) -> str:
    """Run code in a process of its own, in the project's folder; returns what it printed."""
    environment = {**os.environ, "REDIS_URL": redis_url, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


PRICE = "from stocks import *\nfound = update_stock.state('AAPL')\nprint(found and found.price)"


def price_becomes(price: str, project: Path, redis_url: str) -> None:
    wait_until(lambda: run_python(PRICE, project, redis_url).strip() == price, timeout=30, every=0.2)


def test_the_first_example_runs_as_it_stands(project, redis_url, start_worker):
    start_worker("stocks").wait_ready()
    sending = "from stocks import *\nstream_of_stocks = [Stock('AAPL', 190.0), Stock('MSFT', 1.5), Stock('AAPL', 192.5)]\n"
    send_and_wait = sending + block("python", "send_many(stream_of_stocks)").replace(
        "update_stock.state",
        "import time\nwhile (s := update_stock.state('AAPL')) is None or s.price != 192.5: time.sleep(0.05)\nupdate_stock.state",
    )
    run_python(send_and_wait, project, redis_url)
    price_becomes("192.5", project, redis_url)


def test_a_producer_without_this_package_sends_to_the_ingress(project, redis_url, start_worker):
    start_worker("stocks").wait_ready()
    code = block("python", 'queue="partition"').replace("redis://127.0.0.1:6379/0", redis_url)
    run_python(code, project, redis_url)
    price_becomes("191.2", project, redis_url)


def test_the_redis_cli_line_sends_a_message(project, redis_url, start_worker):
    start_worker("stocks").wait_ready()
    program, *command = shlex.split(block("sh", "LPUSH"))
    assert program == "redis-cli"
    with redis.Redis.from_url(redis_url) as client:
        client.execute_command(*command)
    price_becomes("191.2", project, redis_url)


def test_a_project_keeps_its_own_celery_app(project, redis_url):
    code = block("python", "celery_partitions.install(app)").replace("redis://127.0.0.1:6379/0", redis_url)
    assert run_python(code + "\nprint(app.main)", project, redis_url).strip() == "shop"


def test_the_pipeline_example_runs_as_it_stands(project, redis_url, start_worker):
    (project / "words.py").write_text(block("python", "# words.py"))
    (project / "book.txt").write_text("a cat\nthe end\n")
    start_worker("words").wait_ready()
    sending = "from words import *\n" + block("python", "lines.delay(").replace("count.state", "\ncount.state")
    run_python(sending.replace('count.state("cat").number', ""), project, redis_url)
    reading = "from words import *\nfound = count.state('cat')\nprint(found and found.number)"
    wait_until(lambda: run_python(reading, project, redis_url).strip() == "2", timeout=30, every=0.2)


def test_a_users_own_test_runs(project, redis_url):
    run_python("from stocks import *\n" + block("python", "import apply"), project, redis_url)


def test_a_users_own_tests_of_a_pipeline_pass(project, redis_url):
    (project / "words.py").write_text(block("python", "# words.py"))
    (project / "test_words.py").write_text(block("python", "# test_words.py"))
    code = "import sys, pytest; sys.exit(pytest.main(['-q', '-rs', '-p', 'no:cacheprovider']))"
    assert "8 passed" in run_python(code, project, redis_url)


def test_the_settings_of_the_readme_are_the_settings():
    table = README[README.index("## Settings") : README.index("## Deploying")]
    named = set(re.findall(r"`([A-Z_]{5,})`", table.split("Fixed names")[0]))
    assert named == setting_names()


def test_every_proof_that_a_promise_names_is_there():
    table = README[README.index("## The promise") : README.index("## The river")]
    paths = set(re.findall(r"`(tests/[a-z0-9_/.]+)`", table))
    assert paths
    assert [path for path in paths if "def test_" not in (ROOT / path).read_text()] == []


def test_every_command_of_the_readme_exists():
    from celery_partitions.cli.commands import dead_letters, parked, partitions

    named = set(re.findall(r"celery -A \w+ partitions (?:--sink \w+ )?([a-z-]+)", README))
    assert named <= set(partitions.commands)
    for group in (dead_letters, parked):
        assert set(re.findall(rf"partitions {group.name} ([a-z]+)", README)) == set(group.commands)
