"""What users say of a pipeline, as values: its graph, its sources, sinks and windows; and the computations that it comes to. Pure."""
