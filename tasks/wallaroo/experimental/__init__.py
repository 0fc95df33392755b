"""`wallaroo.experimental`: its decorators work, its connectors refuse when they are made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery_partitions.pipeline.frames import Decoder, Encoder, decoder, encoder
from celery_partitions.wallaroo.experimental import connectors as connectors
from celery_partitions.wallaroo.experimental.connectors import (
    AtLeastOnceSourceConnector,
    ConnectorError,
    ProtocolError,
    SinkConnector,
    SourceConnector,
)
from celery_partitions.wallaroo.refusing import Refused


class SourceConnectorConfig(Refused):
    """A source that a connector sends to."""

    instead = connectors.INSTEAD


class SinkConnectorConfig(Refused):
    """A sink that a connector reads from."""

    instead = connectors.INSTEAD


def stream_message_decoder(function: Callable[[bytes], Any]) -> Decoder:
    """Declare the decoder of a connector's messages: frames of four bytes of length."""
    return decoder(header_length=4, length_fmt=">I")(function)


def stream_message_encoder(function: Callable[[Any], Any]) -> Encoder:
    """Declare the encoder of a connector's messages."""
    return encoder(function)


__all__ = [
    "AtLeastOnceSourceConnector",
    "ConnectorError",
    "ProtocolError",
    "SinkConnector",
    "SinkConnectorConfig",
    "SourceConnector",
    "SourceConnectorConfig",
    "connectors",
    "stream_message_decoder",
    "stream_message_encoder",
]
