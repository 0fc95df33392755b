"""The processes that deliver to sinks, run as an operator runs them."""
