"""mypy --strict, run as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def mypy(file: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    # Without this repository's configuration. Celery itself has no types.
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--warn-unused-ignores",
        "--config-file=",
        f"--cache-dir={cache}",
    ]
    command += ["--disable-error-code=import-untyped", "--follow-imports=silent", str(file)]
    env = {**os.environ, "MYPYPATH": str(_folders_as_installed(cache))}
    return subprocess.run(command, env=env, cwd=cache, capture_output=True, text=True, timeout=110, check=False)


def _folders_as_installed(place: Path) -> Path:
    """A folder with `tasks/` and `config/` under their installed names, because mypy does not see an editable install."""
    found = place / "packages"
    if not found.exists():
        found.mkdir()
        (found / "celery_partitions").symlink_to(ROOT / "tasks")
        (found / "celery_partitions_config").symlink_to(ROOT / "config")
    return found


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mypy")


def test_users_code_passes_mypy_strict_with_the_expected_types(cache: Path) -> None:
    ran = mypy(HERE / "as_users_type.py", cache)
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout


def test_each_mistake_is_found_with_its_code(cache: Path) -> None:
    ran = mypy(HERE / "mistakes.py", cache)
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout


@pytest.mark.parametrize(
    ("right", "wrong", "code"),
    [
        (
            'assert_type(update_stock.state("A"), StockPrice | None)',
            'assert_type(update_stock.state("A"), Stock)',
            "assert-type",
        ),
        ("state.price = stock.price", "state.prise = stock.price", "attr-defined"),
    ],
)
def test_the_check_itself_fails_on_a_wrong_type(right: str, wrong: str, code: str, cache: Path, tmp_path: Path) -> None:
    text = (HERE / "as_users_type.py").read_text()
    assert right in text
    broken = tmp_path / "broken.py"
    broken.write_text(text.replace(right, wrong))
    ran = mypy(broken, cache)
    assert ran.returncode == 1 and f"[{code}]" in ran.stdout
