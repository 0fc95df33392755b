"""Ordered, exactly-once, stateful message processing on the Celery and Redis you already run.

The path of a message, from a producer to a committed state:

    producer          any Celery client pushes a JSON message on a Redis list                celery_partitions.producer
      key extractor     runs in the producer's router, or in the ingress partition           celery_partitions.model.keys
        partition queue   one Redis list each; list order is message order                   celery_partitions.store.names
          worker            owns the queue by a lease; reads a batch and removes nothing     celery_partitions.worker.loop
            read              decides for each raw message what to do with it                celery_partitions.model.items
            states            loads the states that are not in memory yet                    celery_partitions.store.states
            step              pure: messages and states → new states, outputs, failures      celery_partitions.model.step
          commit            one script: check the lease, remove the batch, write its effects celery_partitions.store.commits
        next stage        an output is a message on another queue, or an entry in a sink   celery_partitions.model.caller
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery_partitions.app import make_app
from celery_partitions.install import install
from celery_partitions.model.computation import Context
from celery_partitions.model.declaration import key_extractor
from celery_partitions.model.errors import (
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
from celery_partitions.model.keys import partition_of
from celery_partitions.model.policy import RetryPolicy
from celery_partitions.model.timers import Timer
from celery_partitions.model.versions import migrates, state
from celery_partitions.pipeline.frames import decoder, encoder
from celery_partitions.pipeline.graph import Pipeline
from celery_partitions.pipeline.sinks import (
    CallableSink,
    FileSink,
    RedisList,
    RedisStream,
    StdoutSink,
    TaskSink,
    TCPSinkConfig,
)
from celery_partitions.pipeline.sources import FileSource, GenSourceConfig, StreamSource, TCPSourceConfig
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
from celery_partitions.producer.bulk import SendInterrupted
from celery_partitions.producer.handle import (
    OrderedComputation,
    StateComputation,
    computation,
    computation_multi,
    state_computation,
    state_computation_multi,
)
from celery_partitions.producer.pipelines import Application, build_application, source
from celery_partitions.producer.sendable import aclose
from celery_partitions.runtime.registry import use_by_default
from celery_partitions_config.settings import Settings, SettingsError

if TYPE_CHECKING:
    from celery import Celery

    app: Celery

if __name__ == "celery_partitions":
    use_by_default(make_app)
    # The module `celery_partitions.app` is an attribute here since its import, under the name that is promised to the Celery app.
    del globals()["app"]
else:
    # `celery -A tasks` in a checkout: the public names, under the folder's name. It has no submodules, so nothing is loaded twice.
    __path__ = []

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
    "Timer",
    "aclose",
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
    "migrates",
    "milliseconds",
    "minutes",
    "nanoseconds",
    "partition_of",
    "range_windows",
    "seconds",
    "source",
    "state",
    "state_computation",
    "state_computation_multi",
]


def __getattr__(name: str) -> Any:
    """Create `celery_partitions.app` on first use, so that a project with its own app never gets a second one."""
    if name == "app":
        return make_app()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
