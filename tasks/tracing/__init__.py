"""Spans (OpenTelemetry) of a message's way: sent, processed, committed. `spans` alone imports it, and is imported where `PARTITIONS_TRACING` is on."""
