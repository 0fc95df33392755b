"""A user's project: a folder, the environment it runs in, and the processes it starts."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.support.child import ChildProcess

#: Longer than starting Celery and Django with several processes on a busy machine.
SECONDS = 120.0
#: The address in the layouts' files, as in users' files.
PLACEHOLDER = "redis://localhost:6379/0"


@dataclass
class Project:
    """Runs commands in `folder`, with the environment's programs first on the path. This checkout is on no path."""

    folder: Path
    environment: Path
    redis_url: str
    _stack: ExitStack = field(default_factory=ExitStack)
    _count: int = 0

    @classmethod
    def copied(cls, layout: Path, folder: Path, environment: Path, redis_url: str) -> Self:
        """Copy a layout, and replace the usual address of Redis with `redis_url`."""
        shutil.copytree(layout, folder, ignore=shutil.ignore_patterns("__pycache__"))
        for path in folder.rglob("*.py"):
            path.write_text(path.read_text().replace(PLACEHOLDER, redis_url))
        return cls(folder, environment, redis_url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self, command: str, **variables: str) -> ChildProcess:
        """Start a command line in the shell, in its own process group."""
        self._count += 1
        log_path = self.folder / f"process-{self._count}.log"
        with log_path.open("wb") as log:
            popen = subprocess.Popen(
                ["/bin/sh", "-c", f"exec {command}"],
                cwd=self.folder,
                env=self._variables(variables),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        process = ChildProcess(command, popen, log_path)
        self._stack.callback(process.kill)
        return process

    def run(self, command: str, **variables: str) -> str:
        """Run a command line in the shell. Returns its standard output. Raises `AssertionError` if it fails."""
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=self.folder,
            env=self._variables(variables),
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == 0, f"{command}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.logs()}"
        return done.stdout

    def logs(self) -> str:
        """The end of the output of each process."""
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-4000:]}" for path in self.folder.glob("process-*.log"))

    def _variables(self, more: dict[str, str]) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
        path = os.pathsep.join([str(self.environment / "bin"), os.environ.get("PATH", os.defpath)])
        return {**kept, "PATH": path, **more}
