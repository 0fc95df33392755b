"""Measures the product side by side with alternatives: `python -m tests.benchmarks`.

One server without persistence. Each round runs every candidate once, in a rotated order, and the median of the
rounds counts. Nothing asserts a time: a missed target is reported, not raised.

    candidates/   programs that run in their own processes: ours, plain Celery, Bytewax, the raw loop
    measures/     one file per measure: its candidates, how they are timed, and the target
    bench.py      the server, the child processes, and watching queues until they are empty
    runs.py       the runs that most measures use
    proxy.py      a server that is 2 ms away
    samples.py    rounds, medians, rows
    report.py     .bench/results.md and .bench/results.json
    plot.py       .bench/results.svg
"""
