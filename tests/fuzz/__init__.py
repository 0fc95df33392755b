"""Fuzzing. `targets` defines what must be true for any bytes. `test_targets` tries a few thousand inputs with Hypothesis;
`make fuzz SECONDS=60` tries as many as possible with atheris, which searches for bytes that reach new code.

Failing inputs are written to `.fuzz/`. `python -m tests.fuzz TARGET FILE` runs one again.
"""
