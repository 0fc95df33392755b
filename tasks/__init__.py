"""Ordered, exactly-once, stateful message processing on the Celery and Redis you already run.

The river, from a producer to a committed state:

    producer          any Celery client: a JSON message, LPUSHed on a Redis list           tasks.producer
      key extractor     in the producer's router, or in the ingress partition              tasks.model.keys
        partition queue   one Redis list each; its order is the order                      tasks.store.names
          worker            one lease holder a queue; peeks a batch, removes nothing       tasks.worker.loop
            read              raw messages → what is to become of each                     tasks.model.reading
            states            those of the batch's keys that are not in memory             tasks.store.states
            step              pure: messages × states → new states, failures               tasks.model.step
          commit            one script: check the lease; drop the batch; write the states  tasks.store.commits
        next stage        an output is a message on another queue, or in a sink          tasks.model.calling
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from config.settings import Settings, SettingsError
from tasks.app import make_app
from tasks.install import install
from tasks.model.computation import Context, key_extractor
from tasks.model.errors import (
    DeclarationError,
    KeyExtractionError,
    MessageError,
    OneKeyWarning,
    PartitionError,
    QueueFull,
    SetupError,
    StateError,
    TimeLimitExceeded,
)
from tasks.model.keys import partition_of
from tasks.model.policy import RetryPolicy
from tasks.pipeline.framing import decoder, encoder
from tasks.pipeline.graph import Pipeline
from tasks.pipeline.sinks import CallableSink, FileSink, RedisList, RedisStream, StdoutSink, TaskSink, TCPSinkConfig
from tasks.pipeline.sources import FileSource, GenSourceConfig, StreamSource, TCPSourceConfig
from tasks.pipeline.windows import (
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
from tasks.producer.bulk import SendInterrupted
from tasks.producer.declarations import use_by_default
from tasks.producer.handle import (
    OrderedComputation,
    StateComputation,
    computation,
    computation_multi,
    state_computation,
    state_computation_multi,
)
from tasks.producer.pipelines import Application, build_application, source

if TYPE_CHECKING:
    from celery import Celery

    app: Celery

use_by_default(make_app)
# Importing the module `tasks.app` put it here under the name of the Celery app; `__getattr__` gives that instead.
del globals()["app"]

__all__ = [
    "Aggregation",
    "Application",
    "CallableSink",
    "Context",
    "DeclarationError",
    "FileSink",
    "FileSource",
    "GenSourceConfig",
    "KeyExtractionError",
    "MessageError",
    "OneKeyWarning",
    "OrderedComputation",
    "PartitionError",
    "Pipeline",
    "QueueFull",
    "RedisList",
    "RedisStream",
    "RetryPolicy",
    "SendInterrupted",
    "Settings",
    "SettingsError",
    "SetupError",
    "StateComputation",
    "StateError",
    "StdoutSink",
    "StreamSource",
    "TCPSinkConfig",
    "TCPSourceConfig",
    "TaskSink",
    "TimeLimitExceeded",
    "app",
    "build_application",
    "computation",
    "computation_multi",
    "count_windows",
    "decoder",
    "encoder",
    "hours",
    "install",
    "key_extractor",
    "microseconds",
    "milliseconds",
    "minutes",
    "nanoseconds",
    "partition_of",
    "range_windows",
    "seconds",
    "source",
    "state_computation",
    "state_computation_multi",
]


def __getattr__(name: str) -> Any:
    """`tasks.app` is made when it is first asked for, so that a project with its own app never gets a second one."""
    if name == "app":
        return make_app()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
