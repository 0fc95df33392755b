"""OpenTelemetry spans for sending, processing and committing messages.

Only the module `spans` imports OpenTelemetry, and it is imported only if `PARTITIONS_TRACING` is on.
"""
