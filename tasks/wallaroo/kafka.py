"""Wallaroo's Kafka configs and their command line, which refuse when they are used: no process here speaks Kafka."""

from __future__ import annotations

from typing import Any

from celery_partitions.wallaroo.refusing import Refused, refuse

INSTEAD = (
    "Let a consumer of the topic send to a TCPSourceConfig's port, or with any Celery producer to the source; take outputs from a "
    "TCPSinkConfig"
)


class KafkaSourceConfig(Refused):
    instead = INSTEAD


class KafkaSinkConfig(Refused):
    instead = INSTEAD


class _Parser:
    """Is made at import; refuses to parse."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def parse_options(self, args: Any) -> Any:
        refuse("Kafka", INSTEAD)


class DefaultKafkaSourceCLIParser(_Parser):
    pass


class DefaultKafkaSinkCLIParser(_Parser):
    pass


class CustomKafkaSourceCLIParser(_Parser):
    pass


class CustomKafkaSinkCLIParser(_Parser):
    pass


def kafka_parse_source_options(args: Any) -> Any:
    """Raises `WallarooParameterError`."""
    refuse("Kafka", INSTEAD)


def kafka_parse_sink_options(args: Any) -> Any:
    """Raises `WallarooParameterError`."""
    refuse("Kafka", INSTEAD)
