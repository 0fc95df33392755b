"""Hypothesis: what holds for any input, not only for those that came to mind."""
