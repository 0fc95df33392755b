"""`python -m celery_partitions.demo`: shows the product on real prices, or runs the processes for development (`--keep`).

    __main__    starts a server if none is configured, then one of the two below in a process that knows its address
    show        sends prices through the partitions and checks the states · speedup: why partitions help
    keep        keeps the same processes running

They use `celery_partitions.testing.server` (the embedded server) and `celery_partitions.testing.lifeline` (child processes that end
with us), `processes` and `runner` (the Procfile's processes), `prices` (the data), `proof` (the application of `speedup`).
"""
