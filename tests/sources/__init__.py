"""The processes that read sources, run as an operator runs them."""
