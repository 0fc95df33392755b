"""Keeps the evidence of a failed run: logs, the server's files, what was sent and what was found."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.stage import Stage
from tests.chaos.verdict import Found
from tests.support.worker import ROOT

#: Ignored by Git.
FOLDER = ROOT / ".chaos"


def keep(stage: Stage, lines: Sequence[str], found: Found | None) -> Path:
    """Copy everything to a new folder, and return its path. Call this before the stage is closed, which deletes the server's folder."""
    folder = FOLDER / f"{stage.seed}-{stage.directory.name}"
    shutil.copytree(stage.directory, folder)
    for name, files in stage.folders().items():
        shutil.copytree(files, folder / name)
    (folder / "run.log").write_text("\n".join(lines) + "\n")
    for producer in stage.producers:
        rows = "".join(f"{one}\n" for one in producer.sent)
        (folder / f"sent-by-{producer.number}.log").write_text(rows)
    if found is not None:
        rows = "".join(f"{key} {' '.join(map(str, row))}\n" for key, row in sorted(found.applied.items()))
        (folder / "applied.log").write_text(rows)
        (folder / "dead-letters.log").write_text("".join(f"{dead_letter}\n" for dead_letter in found.dead_letters))
    return folder
