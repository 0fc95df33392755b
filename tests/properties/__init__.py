"""Hypothesis tests: what is true for any input, not only for chosen examples."""
