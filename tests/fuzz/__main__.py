"""`make fuzz SECONDS=60`: run each target for this long under atheris. Exits with 1 if any bytes break a target.

`python -m tests.fuzz TARGET FILE` runs one input again, without atheris.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.fuzz.targets import TARGETS, seeds

#: The inputs that reached new code, and the failing ones.
FOUND = Path(".fuzz")
#: The limits for one input. More is a hang, or an explosion of memory.
SECONDS_OF_ONE = 10
MEGABYTES = 1_000


def fuzz(target: str, seconds: int) -> int:
    """Fuzz one target in its own process, which libFuzzer ends. Returns its exit code; 0 if nothing was found."""
    corpus = FOUND / target
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(target)):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = [
        f"-max_total_time={seconds}",
        f"-timeout={SECONDS_OF_ONE}",
        f"-rss_limit_mb={MEGABYTES}",
        "-malloc_limit_mb=1000000",  # memory that is allocated but not touched costs nothing
        f"-artifact_prefix={FOUND / target}-",
        "-max_len=4096",
        "-print_final_stats=1",
    ]
    return subprocess.run([sys.executable, "-m", "tests.fuzz.under_atheris", target, *options, str(corpus)]).returncode


def main(words: list[str]) -> int:
    match words:
        case [seconds] if seconds.isdigit():
            codes = {target: fuzz(target, int(seconds)) for target in TARGETS}
            for target, code in codes.items():
                print(f"{target}: {f'failed, and what broke it is in {FOUND}/' if code else 'nothing found'}")
            return int(any(codes.values()))
        case [target, file] if target in TARGETS:
            TARGETS[target](Path(file).read_bytes())
            return 0
        case _:
            print(__doc__, file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
