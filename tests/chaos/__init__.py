"""The chaos proof: `python -m tests.chaos` harms a whole group at random from a seed, then judges its history.

`schedule` says what is done when, `injections` does it to the `stage`, `traffic` sends and keeps the `ledger`, `findings`
reads what became of it, `verdict` compares the two. `application` is what the workers compute.
"""
