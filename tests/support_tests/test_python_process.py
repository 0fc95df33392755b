"""A forked process is like a fresh `python -m MODULE`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.python_process import run_python, start_python

MODULE = """
import os, sys
print(__name__, os.path.basename(sys.argv[0]), sys.argv[1:], sys.path[:2], os.getcwd(), sorted(os.environ.items()))
print([(s.encoding, s.errors, s.line_buffering, s.write_through) for s in (sys.stdin, sys.stdout, sys.stderr)])
print(sys.stdin.read(), [name for name in sys.modules if name.split(".")[0] in ("tests", "pytest")], os.getsid(0) == os.getpid())
print("to stderr", file=sys.stderr)
sys.exit({"code": 7, "text": "an error", "none": None}[sys.argv[1]])
"""


@pytest.mark.parametrize("more", [{}, {"PYTHONIOENCODING": "latin-1"}, {"PYTHONUNBUFFERED": "1"}], ids=lambda more: " ".join(more) or "plain")
@pytest.mark.parametrize("word", ["code", "text", "none"])
def test_it_sees_and_does_the_same_as_a_fresh_interpreter(tmp_path: Path, word: str, more: dict[str, str]) -> None:
    (tmp_path / "module.py").write_text(MODULE)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "more"), **more}
    fresh = subprocess.run(
        [sys.executable, "-m", "module", word],
        cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, start_new_session=True,
    )  # fmt: skip
    assert "__main__ module.py" in fresh.stdout
    forked = run_python("module", word, directory=tmp_path, environment=environment)
    assert forked.stdout.splitlines() == fresh.stdout.splitlines()
    assert (forked.returncode, forked.stderr) == (fresh.returncode, fresh.stderr)


def test_pipes_signals_and_timeouts_are_those_of_popen(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("print('ready', flush=True); import time; time.sleep(600)")
    with start_python("module", directory=tmp_path, environment=os.environ, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        assert process.poll() is None
        process.terminate()
        assert process.wait(60) == -signal.SIGTERM == process.returncode
        process.kill()  # does nothing
