"""`wallaroo.experimental.connectors`: classes that programs outside the application derive from; they refuse when they are made."""

from __future__ import annotations

from celery_partitions.wallaroo.refusing import Refused

INSTEAD = (
    "Use wallaroo.TCPSourceConfig or wallaroo.TCPSinkConfig, and let the connector's program write or read frames over TCP; or let it "
    "send to the source as any Celery producer does"
)


class ConnectorError(Exception):
    """As connectors raise it."""


class ProtocolError(ConnectorError):
    """As connectors raise it."""


class SourceConnector(Refused):
    """A program that sends to a source."""

    instead = INSTEAD


class AtLeastOnceSourceConnector(Refused):
    """A program that sends to a source, and again what was not acknowledged."""

    instead = INSTEAD


class SinkConnector(Refused):
    """A program that reads from a sink."""

    instead = INSTEAD


__all__ = ["AtLeastOnceSourceConnector", "ConnectorError", "ProtocolError", "SinkConnector", "SourceConnector"]
