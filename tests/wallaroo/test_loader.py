"""Loading an application by its module name, and the errors if that fails."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import celery_partitions.wallaroo as wallaroo
from celery_partitions.runtime.registry import declared
from celery_partitions.wallaroo.arguments import read_options
from celery_partitions.wallaroo.loader import ApplicationError, command_line, load

SETUPS = {
    "no_setup": ("x = 1", "has no function application_setup"),
    "no_import": ("import there_is_no_such", "importing 'no_import' failed.*there_is_no_such"),
    "no_syntax": ("def", "importing 'no_syntax' failed.*SyntaxError"),
    "no_setting": ("def application_setup(args):\n    raise KeyError('colour')", "failed.*no_setting.py.*KeyError: 'colour'"),
    "no_exit": ("import sys\ndef application_setup(args):\n    sys.exit('usage')", "SystemExit: usage"),
    "no_result": ("def application_setup(args):\n    pass", "must return the result of wallaroo.build_application"),
}


@pytest.mark.parametrize("name", SETUPS)
def test_errors_explain_what_is_wrong(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, says = SETUPS[name]
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(ApplicationError, match=f"(?s){says}"):
        load(command_line(["--application-module", name]))
    sys.modules.pop(name, None)


def test_a_missing_module() -> None:
    with pytest.raises(ApplicationError, match=r"no module 'alphabet\.py'|no module 'not_there'"):
        load(command_line(["--application-module", "not_there"]))


def test_the_application_gets_the_whole_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "asking.py").write_text(
        "import wallaroo\n"
        "given = []\n"
        "at_import = wallaroo._ARGS\n"
        "@wallaroo.computation(name='asked')\n"
        "def asked(data): return data\n"
        "@wallaroo.encoder\n"
        "def encode(data): return data\n"
        "@wallaroo.decoder(header_length=4, length_fmt='>I')\n"
        "def decode(data): return data\n"
        "def application_setup(args):\n"
        "    given.append(args)\n"
        "    (host, port), = wallaroo.tcp_parse_input_addrs(args)\n"
        "    begin = wallaroo.source('s', wallaroo.TCPSourceConfig(host, port, decode))\n"
        "    return wallaroo.build_application('asking', begin.to(asked).to_sink(wallaroo.TCPSinkConfig(host, port, encode)))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    arguments = command_line(["--application-module", "asking", "--in", "h:1", "--own-option", "7", "--ponythreads", "1"])
    before, args = dict(declared), wallaroo._ARGS
    try:
        assert load(arguments).name == "asking"
        import asking  # type: ignore[import-not-found]

        assert asking.given == [list(arguments)] and asking.at_import == arguments
        assert isinstance(wallaroo._ARGS, tuple) and "--cluster-initializer" in arguments and "--own-option" in arguments
    finally:
        declared.clear()
        declared.update(before)
        wallaroo._ARGS = args
        sys.modules.pop("asking", None)


def test_machidas_options_are_accepted() -> None:
    given = "--application-module a --metrics h:1 --control h:2 --data h:3 --external h:4 --worker-name w --worker-count 3 --cluster-initializer"
    assert read_options(given.split()).workers == 3
    assert read_options([*given.split(), "--workers", "2", "--run-with-resilience", "--ponynoblock"]).workers == 2
