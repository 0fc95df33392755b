"""One target under atheris, in its own process: `python -m tests.fuzz.under_atheris TARGET -OPTION=… CORPUS`."""

from __future__ import annotations

import sys

import atheris

# Code is instrumented when it is imported.
with atheris.instrument_imports(include=["celery_partitions", "kombu.utils.json", "pickletools", "csv"]):
    from tests.fuzz.targets import TARGETS

if __name__ == "__main__":
    program, target, *options = sys.argv
    atheris.Setup([program, *options], TARGETS[target])
    atheris.Fuzz()
