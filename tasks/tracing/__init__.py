"""Spans (OpenTelemetry) of a message's way: sent, processed, committed. Imported only where `TRACING` is on."""
