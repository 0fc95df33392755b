"""`python -m tests.docs.snippets BLOCKS`: type every code block of the guides, in order, while a worker runs.

The working directory contains the files that the guides show. Each page is one session: a block may use what earlier blocks
and the page's files define. After a line that sends, the next line waits until the queues are empty. The expression in a line
`expression  # → value` must have that value. Prints one JSON object per block: its place, and what failed.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import time
import tomllib
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
from celery.bin.worker import worker as celery_worker
from click.testing import CliRunner

from celery_partitions import app
from celery_partitions.cli.commands import partitions
from celery_partitions.runtime.registry import installation_of
from tests.docs.pages import EXAMPLE_URL, Block
from tests.support.wait import wait_until
from tests.support.worker import ROOT

#: Longer than processing the messages of one snippet on a busy machine.
PATIENCE_SECONDS = 60.0
FOREIGN_SECONDS = 60

_VALUE = re.compile(r"#\s*→\s*(.+)$")
_SENDS = re.compile(r"\.(delay|apply_async|send_many|send_task|get)\(|\)\(\)|send ")
_ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")

#: Commands that are run, not only parsed: they print data and exit.
RUN = {
    *("status", "workers", "doctor", "attention", "audit", "keys", "state get", "parked list", "dead-letters list", "policy", "send", "top"),
    "settings",
}


class Failed(Exception):
    """A block does not do what the page says."""


class Session:
    """One page, typed in one session."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.names: dict[str, Any] = {"__name__": "typed"}
        installation = installation_of(app)
        assert installation is not None
        self.group = installation.group

    def type(self, block: Block) -> None:
        text = block.text.replace(EXAMPLE_URL, self.url)
        match block.language:
            case "python" if block.file is not None:
                self._use_file(block.file, text)
            case "python" if "import celery_partitions" not in text and "Celery(" in text:
                self._foreign([sys.executable, "-c", text])
            case "python":
                self._type_python(text, block)
            case "js":
                self._foreign(["node", "-e", text])
            case "sh":
                for line in text.replace("\\\n", " ").splitlines():
                    self._type_command(line)

    def _use_file(self, name: str, text: str) -> None:
        if name.startswith("test_"):
            return  # pytest runs it
        if "install(" in text and "Celery(" in text:
            self._run([sys.executable, "-c", f"import {_module(name)}"])  # a project with its own app
            return
        module = importlib.import_module(_module(name))
        self.names |= {key: value for key, value in vars(module).items() if not key.startswith("__")}

    def _type_python(self, text: str, block: Block) -> None:
        lines = text.splitlines()
        for statement in ast.parse(text).body:
            here = ast.Module([statement], [])
            ast.increment_lineno(here, block.line - 1)
            last_line = lines[(statement.end_lineno or block.line) - block.line]
            expected = _VALUE.search(last_line)
            if isinstance(statement, ast.Expr):
                code = compile(ast.Expression(statement.value), block.page, "eval")
                value = eval(code, self.names)
                if expected is not None and repr(value) != expected[1].strip():
                    raise Failed(f"line {statement.lineno}: {value!r}, not {expected[1].strip()}")
            else:
                exec(compile(here, block.page, "exec"), self.names)
            if _SENDS.search(ast.unparse(statement)):
                self._wait_idle()

    def _type_command(self, line: str) -> None:
        if line.startswith("export "):
            return  # test_pages.py checks the names
        words = shlex.split(line, comments=True)
        while words and _ASSIGNMENT.fullmatch(words[0]):
            words.pop(0)
        match words:
            case []:
                return
            case ["celery", "-A", _, "partitions", *rest]:
                self._partitions(rest)
            case ["celery", "-A", _, "worker", *rest]:
                known = {option for parameter in celery_worker.params for option in parameter.opts}
                unknown = [word.partition("=")[0] for word in rest if word.startswith("-") and word.partition("=")[0] not in known]
                if unknown:
                    raise Failed(f"celery worker has no {unknown}")
            case ["redis-cli", *command]:
                with self._one_more_message():
                    self.group.client.execute_command(*command)
            case ["make", target, *_]:
                if not re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE):
                    raise Failed(f"the Makefile has no target {target}")
            case ["pip", "install", *what]:
                _check_extras(what)
            case ["python" | "opentelemetry-instrument", *rest]:
                _check_python(rest)
            case _:
                raise Failed(f"nothing here knows how to check: {line}")

    def _partitions(self, words: list[str]) -> None:
        runner, context = CliRunner(), SimpleNamespace(app=app)
        with _parsing_only(partitions):
            parsed = runner.invoke(partitions, words, obj=context)
        if parsed.exit_code != 0:
            raise Failed(parsed.output)
        placeholders = [word for word in words if re.search(r"[A-Z]{2,}", word) and word.isupper() and word not in ("AAPL", "MSFT")]
        if not placeholders and words[0] != "--sink" and (words[0] in RUN or " ".join(words[:2]) in RUN) and not _changes(words):
            done = runner.invoke(partitions, words, obj=context)
            if done.exit_code != 0 and words[0] not in ("doctor", "attention"):
                raise Failed(f"exit code {done.exit_code}: {done.output}") from done.exception
            self._wait_idle()

    def _foreign(self, command: list[str]) -> None:
        with self._one_more_message():
            self._run(command)

    def _run(self, command: list[str]) -> None:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=FOREIGN_SECONDS)
        except subprocess.TimeoutExpired:
            raise Failed(f"{command[0]} did not end in {FOREIGN_SECONDS:g} s") from None
        if done.returncode != 0:
            raise Failed(done.stderr)

    @contextmanager
    def _one_more_message(self) -> Iterator[None]:
        before = self._processed()
        yield
        wait_until(lambda: self._processed() > before, PATIENCE_SECONDS, message="no message was applied")

    def _processed(self) -> int:
        return sum(row.processed for row in self.group.status())

    def _wait_idle(self) -> None:
        wait_until(lambda: not any(row.length or row.running for row in self.group.status()), PATIENCE_SECONDS, message="the queues are not empty")


def _module(name: str) -> str:
    return name.removesuffix(".py").replace("/", ".")


def _changes(words: list[str]) -> bool:
    return words[0] == "policy" and any(word.startswith("--") for word in words)


def _check_extras(words: list[str]) -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extras in re.findall(r"celery-partitions\[([a-z,]+)\]", " ".join(words)):
        missing = set(extras.split(",")) - set(known)
        if missing:
            raise Failed(f"there is no extra {missing}")


def _check_python(words: list[str]) -> None:
    module = words[words.index("-m") + 1] if "-m" in words else ""
    if module and find_spec(module) is None:
        raise Failed(f"there is no module {module}")


@contextmanager
def _parsing_only(group: click.Group) -> Iterator[None]:
    """Check the arguments of every command without running it."""
    kept: list[tuple[click.Command, Callable[..., Any] | None]] = []

    def silence(command: click.Command) -> None:
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                silence(command.get_command(context, name) or command)
        kept.append((command, command.callback))
        command.callback = None

    silence(group)
    try:
        yield
    finally:
        for command, callback in kept:
            command.callback = callback


def main() -> None:
    sys.path.insert(0, "")
    found = [Block(**one) for one in json.loads(Path(sys.argv[1]).read_text())]
    app.loader.import_default_modules()
    sessions: dict[str, Session] = {}
    for block in found:
        began = time.monotonic()
        session = sessions.setdefault(block.page, Session(os.environ["REDIS_URL"]))
        error = ""
        try:
            with redirect_stdout(sys.stderr):
                session.type(block)
        except (Exception, SystemExit):
            error = traceback.format_exc()
        seconds = round(time.monotonic() - began, 1)
        print(json.dumps({"page": block.page, "where": block.where, "error": error, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
