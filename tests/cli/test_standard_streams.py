"""Errors of files, standard streams and arguments are reported as such, never as Redis errors."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from celery_partitions_config.settings import Settings
from tests.cli.conftest import Refused, Run
from tests.cli.declared import note, update
from tests.producer.conftest import MakeApp
from tests.support.python_process import run_python
from tests.support.worker import ROOT

PutState = Callable[[str, float], None]
RunAlone = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run_alone(redis_url: str) -> RunAlone:
    """Run a command in its own process. `shell` is added to its command line; for example `<&-` closes standard input."""

    def run_alone(*words: str, shell: str = "", stdout: Any = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
        celery = [sys.executable, "-m", "celery", "-A", "tests.cli.declared_app", "partitions", *words]
        return subprocess.run(
            ["sh", "-c", f'exec "$@" {shell}', "sh", *celery],
            env={**os.environ, "REDIS_URL": redis_url, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    return run_alone


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
@pytest.mark.parametrize("words", [("top", "--interval", "0.1"), ("status",), ("doctor",), ("keys", update.name), ("parked", "list")])
def test_an_encoding_without_our_characters_is_no_error(
    redis_url: str, put_state: PutState, tmp_path: Path, encoding: str, words: tuple[str, ...]
) -> None:
    put_state("▁e", 191.5)
    environment = {**os.environ, "REDIS_URL": redis_url, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding}
    done = run_python("celery", "-A", "tests.cli.declared_app", "partitions", *words, directory=tmp_path, environment=environment)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    if words[0] == "keys":
        assert {"?e", "▁e"} & set(done.stdout.split())  # click writes UTF-8 where the encoding is ASCII


def test_a_closed_pipe_ends_the_command_silently(
    run_alone: RunAlone, put_state: PutState
) -> None:
    put_state("AAPL", 191.5)
    read, write = os.pipe()
    os.close(read)
    try:
        done = run_alone("keys", update.name, stdout=write)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
def test_an_output_error_is_explained(run_alone: RunAlone, put_state: PutState) -> None:
    put_state("AAPL", 191.5)
    with Path("/dev/full").open("w") as full:
        done = run_alone("keys", update.name, stdout=full)
    assert (done.returncode, done.stderr) == (1, "Error: No space left on device\n")


def test_with_standard_input_closed_a_confirmation_is_refused(
    run_alone: RunAlone, put_state: PutState, client: redis.Redis
) -> None:
    put_state("AAPL", 191.5)
    before = {name: client.dump(name) for name in client.scan_iter("{partition.*}:state:*")}
    done = run_alone("state", "delete", update.name, "AAPL", shell="<&-")
    assert done.returncode == 1
    assert "Cannot ask for confirmation" in done.stderr and "Traceback" not in done.stderr
    assert {name: client.dump(name) for name in client.scan_iter("{partition.*}:state:*")} == before


def test_with_standard_input_closed_send_reports_that_there_is_no_input(run_alone: RunAlone) -> None:
    done = run_alone("send", update.name, "-", shell="<&-")
    assert done.returncode == 1
    assert "standard input is closed" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [["export"], ["send", update.name]])
def test_a_file_that_cannot_exist_is_named(refused: Refused, tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "file").touch()
    for name, why in (("none/x.csv", "No such file or directory"), ("file/x.csv", "Not a directory")):
        refused(*command, str(tmp_path / name), says=[f"Error: {tmp_path / name}", why])


@pytest.mark.parametrize("words", [["audit"], ["status"], ["top"], ["top", "--json"]], ids=" ".join)
def test_an_unreachable_server_is_a_one_line_error(run: Run, make_app: MakeApp, words: list[str]) -> None:
    nowhere = "redis://127.0.0.1:1/0"
    result = run(*words, app=make_app(nowhere, Settings(redis_url=nowhere)))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: Redis: ") and len(result.stderr.splitlines()) == 1
    assert result.stderr.rstrip().endswith("Is the server running? Its address comes from redis_url (code)")


@pytest.mark.parametrize(
    "command",
    [
        ["stored", "\udcff", "AAPL"],
        ["state", "set", update.name, "AAPL", '{"price": "\udcff"}', "--yes"],
        ["drain", "\udcff"],
        ["pause", "1", "\udcff"],
        ["dead-letters", "show", "\udcff"],
        ["dead-letters", "retry", "--reason", "\udcff"],
        ["policy", "\udcff"],
    ],
)
def test_arguments_that_are_not_utf8_are_wrong_usage(run: Run, command: list[str]) -> None:
    """Python passes the byte ff on the command line as the surrogate \\udcff."""
    result = run(*command)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "not valid UTF-8" in result.stderr


def test_keys_and_file_names_may_be_any_bytes(run_alone: RunAlone, run: Run, tmp_path: Path) -> None:
    assert "'\\\\xff' is not parked" in run("parked", "retry", "\udcff").stderr
    assert "no state for the key '\\\\xff'" in run("stored", update.name, "\udcff").stderr
    file = tmp_path / "\udcff.jsonl"
    done = run_alone("export", str(file))
    assert (done.returncode, done.stderr, file.exists()) == (0, "", True)
    file.write_text('{"key": "k"}')
    assert run("send", note.name, str(file)).exit_code == 0
