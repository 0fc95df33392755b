"""What the product costs, side by side with what people would use instead: `python -m tests.benchmarks`.

One server, started here and kept in memory only; each round runs every candidate once, in a rotated order;
the median over the rounds counts. Nothing here asserts a time: a missed target is reported, not raised.

    candidates/   programs that run as processes of their own: ours, plain Celery, Bytewax, the raw loop
    measures/     one file a measure: which candidates, how they are timed, what is to be reached
    bench.py      the server, the child processes, and watching a queue empty
    runs.py       the runs that most measures are made of
    proxy.py      a server that is 2 ms away
    samples.py    rounds, medians, rows
    report.py     .bench/results.md and .bench/results.json
    plot.py       .bench/results.svg
"""
