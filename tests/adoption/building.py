"""Builds the distributions from a copy of the checkout, and creates environments. Pip and venv suffice; uv is faster."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.support.worker import ROOT

#: Longer than downloading and installing everything on a busy machine. A test that waits for it gets a longer timeout.
INSTALL_SECONDS = 300


@dataclass(frozen=True)
class Distributions:
    """The results of `build_distributions` in a folder."""

    folder: Path

    @property
    def wheel(self) -> Path:
        (wheel,) = self.folder.glob("*.whl")
        return wheel

    @property
    def sdist(self) -> Path:
        (sdist,) = self.folder.glob("*.tar.gz")
        return sdist

    @cached_property
    def wheel_files(self) -> set[str]:
        with zipfile.ZipFile(self.wheel) as wheel:
            return {name for name in wheel.namelist() if not name.endswith("/")}

    @cached_property
    def sdist_files(self) -> set[str]:
        """The files of the source distribution, without its top folder."""
        with tarfile.open(self.sdist) as archive:
            return {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}

    def metadata(self) -> str:
        """The wheel's METADATA file."""
        (name,) = (name for name in self.wheel_files if name.endswith(".dist-info/METADATA"))
        with zipfile.ZipFile(self.wheel) as wheel:
            return wheel.read(name).decode()


def build_distributions(folder: Path) -> None:
    """Build the source distribution from a clean copy of this checkout, and the wheel from that."""
    copy_checkout(source := folder.with_name("source"))
    _run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(source)])
    shutil.rmtree(source)


def copy_checkout(target: Path) -> None:
    """Copy the files that Git tracks or would add: the contents of a fresh clone after a commit."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def make_environment(folder: Path, *requirements: str) -> None:
    """Create a virtual environment with these requirements."""
    if uv := shutil.which("uv"):  # ten times as fast
        _run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)])
        _run([uv, "pip", "install", "--quiet", "--python", str(folder), *requirements])
        return
    _run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "--disable-pip-version-check"]
    _run([*pip, "install", "--quiet", *requirements])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
