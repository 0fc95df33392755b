"""Wallaroo's Python API, 0.1 to 0.6, on partitions; `python -m celery_partitions.wallaroo` runs an application written for it, unmodified.

While this module is imported, `import wallaroo` gives it: in a process of the runner, and in a test of an application whose conftest
imports `celery_partitions.wallaroo`.

    computations  the decorators               arguments  the command line, --in and --out
    ends          sources, sinks, codecs       pipelines  source(), build_application()
    older         the builder of 0.1 to 0.5 (sharing: states that lines share)
    loading       an application by its module · application: it as a Celery app, for the runner's processes
    running       the processes, and their end · waiting: what is not worked off yet
"""

from __future__ import annotations

import pickle
import sys
from datetime import UTC, datetime
from typing import Any

from celery_partitions.model.restricted_pickle import load_and_list
from celery_partitions.pipeline.frames import Decoder, Encoder, decoder, encoder
from celery_partitions.pipeline.graph import Pipeline
from celery_partitions.pipeline.windows import (
    Aggregation,
    count_windows,
    hours,
    microseconds,
    milliseconds,
    minutes,
    nanoseconds,
    range_windows,
    seconds,
)
from celery_partitions.wallaroo import experimental
from celery_partitions.wallaroo.arguments import tcp_parse_input_addrs, tcp_parse_output_addrs
from celery_partitions.wallaroo.computations import (
    Computation,
    ComputationMulti,
    KeyExtractor,
    StateComputation,
    StateComputationMulti,
    WallarooParameterError,
    computation,
    computation_multi,
    key_extractor,
    partition,
    state_computation,
    state_computation_multi,
)
from celery_partitions.wallaroo.ends import GenSourceConfig, TCPSinkConfig, TCPSourceConfig
from celery_partitions.wallaroo.kafka import (
    CustomKafkaSinkCLIParser,
    CustomKafkaSourceCLIParser,
    DefaultKafkaSinkCLIParser,
    DefaultKafkaSourceCLIParser,
    KafkaSinkConfig,
    KafkaSourceConfig,
    kafka_parse_sink_options,
    kafka_parse_source_options,
)
from celery_partitions.wallaroo.older import ApplicationBuilder
from celery_partitions.wallaroo.pipelines import build_application, source

#: The whole command line that the application was given, once the runner has loaded it.
_ARGS: tuple[str, ...] = ()

# `import wallaroo` finds it here; also in a test of an application, whose conftest imports `celery_partitions.wallaroo`.
sys.modules["wallaroo"] = sys.modules[__name__]
sys.modules["wallaroo.experimental"] = experimental
sys.modules["wallaroo.experimental.connectors"] = experimental.connectors


def serialize(value: Any) -> bytes:
    """A value as bytes: its pickle."""
    return pickle.dumps(value, 5)


def deserialize(data: bytes) -> Any:
    """What `serialize` gave bytes of. For the application's own bytes only: a pickle can run anything."""
    return load_and_list(data)[0]


def dt_to_timestamp(dt: datetime) -> float:
    """Seconds since the epoch; of a time without a zone, as UTC."""
    return (dt if dt.tzinfo else dt.replace(tzinfo=UTC)).timestamp()


__all__ = [
    "Aggregation",
    "ApplicationBuilder",
    "Computation",
    "ComputationMulti",
    "CustomKafkaSinkCLIParser",
    "CustomKafkaSourceCLIParser",
    "Decoder",
    "DefaultKafkaSinkCLIParser",
    "DefaultKafkaSourceCLIParser",
    "Encoder",
    "GenSourceConfig",
    "KafkaSinkConfig",
    "KafkaSourceConfig",
    "KeyExtractor",
    "Pipeline",
    "StateComputation",
    "StateComputationMulti",
    "TCPSinkConfig",
    "TCPSourceConfig",
    "WallarooParameterError",
    "build_application",
    "computation",
    "computation_multi",
    "count_windows",
    "decoder",
    "deserialize",
    "dt_to_timestamp",
    "encoder",
    "experimental",
    "hours",
    "kafka_parse_sink_options",
    "kafka_parse_source_options",
    "key_extractor",
    "microseconds",
    "milliseconds",
    "minutes",
    "nanoseconds",
    "partition",
    "range_windows",
    "seconds",
    "serialize",
    "source",
    "state_computation",
    "state_computation_multi",
    "tcp_parse_input_addrs",
    "tcp_parse_output_addrs",
]
