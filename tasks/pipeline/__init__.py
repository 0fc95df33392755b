"""A pipeline as users declare it, as values: its graph, sources, sinks and windows, and the computations that they become. Pure."""
