"""`source` and `build_application`: what is declared afterwards, reloading a module, and names already in use."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from celery_partitions import build_application, source
from celery_partitions.model.errors import DeclarationError, OneKeyWarning, SetupError
from celery_partitions.pipeline.sinks import RedisList
from celery_partitions.producer.pipelines import applications
from celery_partitions.runtime.registry import declared
from tests.model.piped import logging, stage


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    before, known = dict(declared), dict(applications)
    yield
    for now, was in ((declared, before), (applications, known)):
        now.clear()  # type: ignore[attr-defined]
        now.update(was)  # type: ignore[attr-defined]


def key(value: Any) -> str:
    return str(value)


def test_an_application_lists_its_parts() -> None:
    begun = source("tests: in")
    with pytest.raises(SetupError, match="call build_application"):
        begun.delay(1)
    made = build_application("tests: app", begun.key_by(key).to(logging("tests: log")).to_sink(RedisList("out")))
    assert (list(made.sources), list(made.stages), list(made.sinks)) == (["tests: in"], ["tests: log"], ["out"])
    assert made.stage("tests: log").computation is made.stages["tests: log"] is declared["tests: log"]
    assert applications["tests: app"] is made
    with pytest.raises(DeclarationError, match="has no stage 'nothing' with a state; it has 'tests: log'"):
        made.stage("nothing")


def test_the_warning_about_one_key_points_to_where_the_application_is_built() -> None:
    with pytest.warns(OneKeyWarning, match="stage 'tests: one' has one key") as caught:
        build_application("tests: app", source("tests: in").to(logging("tests: one")).to_sink(RedisList("out")))
    assert [Path(one.filename).name for one in caught] == [Path(__file__).name]


def test_two_applications_cannot_have_stages_with_the_same_name() -> None:
    build_application("tests: a", source("tests: a in").key_by(key).to(logging("tests: log")).to_sink(RedisList("out")))
    with pytest.raises(DeclarationError, match=r"'tests: log' is declared twice.*\.to\(…, name=…\)"):
        build_application("tests: b", source("tests: b in").key_by(key).to(logging("tests: log")).to_sink(RedisList("out")))


def test_a_source_cannot_have_the_name_of_another_computation() -> None:
    build_application("tests: a", source("tests: in").key_by(key).to_sink(RedisList("out")))
    with pytest.raises(DeclarationError, match="'tests: in' is declared twice"):
        build_application("tests: b", source("tests: in").key_by(key).to_sink(RedisList("out")))


MODULE = """
from celery_partitions import RedisList, build_application, computation, source, state_computation

class Log:
    entries = []

@state_computation("tests: reloaded", state=Log)
def log(value, state):
    state.entries.append(VERSION)
    return value

entered = source("tests: reloaded in")
made = build_application("tests: reloaded app", entered.key_by(str).to(log).to(log).to_sink(RedisList("out")))
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "reloaded_pipeline.py").write_text(MODULE.replace("VERSION", "1"))
    yield importlib.import_module("reloaded_pipeline")
    del sys.modules["reloaded_pipeline"]


def test_a_module_that_builds_an_application_can_be_imported_again(module: ModuleType, tmp_path: Path) -> None:
    before = module.made
    (tmp_path / "reloaded_pipeline.py").write_text(MODULE.replace("VERSION", "22"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = importlib.reload(module).made
    assert again is not before and applications["tests: reloaded app"] is again
    for name in ("tests: reloaded", "tests: reloaded 2", "tests: reloaded in"):
        assert declared[name] in (*again.stages.values(), *again.sources.values())
    state = module.Log()
    again.stages["tests: reloaded 2"].function(0, state)
    assert state.entries == [22]


def test_the_same_stage_in_the_same_application_is_accepted_again() -> None:
    log = stage(key, "tests: again")
    for _ in range(2):
        build_application("tests: a", source("tests: in").key_by(key).to(log).to_sink(RedisList("out")))
