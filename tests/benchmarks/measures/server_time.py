"""The server's own time for the commits, per message: `INFO commandstats`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from tests.benchmarks.bench import Bench
from tests.benchmarks.measures.pipelines import through
from tests.benchmarks.runs import partitioned_drain
from tests.benchmarks.samples import Row, alternate


def measure(bench: Bench) -> list[Row]:
    count, keys = bench.size.messages, bench.size.keys

    def spent(run: Callable[[], object]) -> float:
        """Microseconds that the server spent in scripts during a run, per message."""
        with bench.client() as client:
            client.config_resetstat()
            run()
            stats = cast(dict[str, Any], client.info("commandstats"))
        return float(stats["cmdstat_evalsha"]["usec"] / count)

    taken = alternate(
        bench.rounds,
        {
            "one computation": lambda: spent(lambda: partitioned_drain(bench, count, keys)),
            "one stage": lambda: spent(partial(through, bench, "one-stage")),
            "two hops into a list": lambda: spent(partial(through, bench, "two-hops")),
        },
    )
    return [
        Row(
            measure=f"the server's time for commits, {name}",
            unit="µs/message",
            ours=samples.median,
            note=f"{count:,} messages of {keys:,} keys. All scripts of the run; nearly all of it is commits.",
            samples={"ours": samples},
        )
        for name, samples in taken.items()
    ]
