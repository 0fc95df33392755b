"""Fuzzing. `targets` says what must hold for any bytes; the test beside it tries a few thousand with Hypothesis in the suite, and
`make fuzz SECONDS=60` as many as fit with atheris, which looks for the bytes that reach new code.

What it finds is written to `.fuzz/`: `python -m tests.fuzz TARGET FILE` runs it again.
"""
