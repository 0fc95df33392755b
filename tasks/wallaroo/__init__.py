"""Wallaroo's Python API (0.1 to 0.6) on partitions. `python -m celery_partitions.wallaroo` runs unmodified Wallaroo applications.

Importing this module makes it available as `import wallaroo`: in the runner's processes, and in tests of an application whose
conftest imports `celery_partitions.wallaroo`.

    computations  the decorators               arguments  the command line, --in and --out
    ends          sources, sinks, codecs       pipelines  source(), build_application()
    older         the builder of 0.1 to 0.5 (composition: states that pipelines share)
    loader        loads an application by its module application  it as a Celery app, for the runner's processes
    runner        starts and stops the processes     unfinished   messages that are not processed yet
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
from celery_partitions.wallaroo.older import ApplicationBuilder
from celery_partitions.wallaroo.pipelines import build_application, source

#: The application's whole command line, once the runner has loaded it.
_ARGS: tuple[str, ...] = ()

# Makes `import wallaroo` find this module, also in tests of an application whose conftest imports `celery_partitions.wallaroo`.
sys.modules["wallaroo"] = sys.modules[__name__]


def serialize(value: Any) -> bytes:
    """A value as bytes (a pickle)."""
    return pickle.dumps(value, 5)


def deserialize(data: bytes) -> Any:
    """The value that `serialize` turned into bytes. Only for the application's own bytes: a pickle from outside can run any code."""
    return load_and_list(data)[0]


def dt_to_timestamp(dt: datetime) -> float:
    """Seconds since the epoch. A time without a zone is taken as UTC."""
    return (dt if dt.tzinfo else dt.replace(tzinfo=UTC)).timestamp()


__all__ = [
    "Aggregation",
    "ApplicationBuilder",
    "Computation",
    "ComputationMulti",
    "Decoder",
    "Encoder",
    "GenSourceConfig",
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
    "hours",
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
