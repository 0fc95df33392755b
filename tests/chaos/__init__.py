"""The chaos test: `python -m tests.chaos` injects random faults into a whole group, by a seed, then checks its history.

`schedule` decides which faults happen when, `injections` applies them to the `stage`, `traffic` sends messages and keeps the
`ledger`, `findings` reads the results, `verdict` compares the two. `application` is what the workers run. Each kind of traffic has a
file: `calls` that wait, `limits`, `timers`, `sends`, `expiry`. `recorder` sees from outside when calls start and end.
"""
