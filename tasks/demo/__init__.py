"""`python -m celery_partitions.demo`: the product shown on real prices, and the processes for development (`--keep`).

    __main__    a server if there is none, then one of the two below in a process that knows its address
    show        prices through the partitions, checked against a plain fold · speedup: why partitions help
    keep        the same processes, kept running

Under them: `celery_partitions.testing.server` (the embedded server) and `celery_partitions.testing.lifeline` (what we start ends with us), `processes` and
`runner` (the Procfile's processes), `prices` (the data), `proof` (the application of `speedup`), `status` (who owns what).
"""
