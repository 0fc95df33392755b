"""Runs steps with a worker's policies, time limits and pickling, and replaces a process that hangs in one."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from celery_partitions.model.caller import Call
from celery_partitions.model.items import Item, Work
from celery_partitions.model.message_writer import MessageWriter
from celery_partitions.model.outcome import Outcome, Pickling, States
from celery_partitions.model.step import StepRules, step
from celery_partitions.store.leases import Lease
from celery_partitions.store.names import Names
from celery_partitions.worker.celery_context import CeleryContext
from celery_partitions.worker.logs import log_fields_of
from celery_partitions.worker.owned import OwnedPartition
from celery_partitions.worker.policies import Policies
from celery_partitions.worker.process_replacement import replace_process
from celery_partitions.worker.time_limits import TimeLimits
from celery_partitions_config.settings import Settings

logger = logging.getLogger("celery.worker.partitions")


class StepRunner:
    """Made once per loop and used by its thread, except `hangs`."""

    def __init__(
        self, settings: Settings, names: Names, worker: str, pickling: Pickling, writer: MessageWriter, context: CeleryContext
    ) -> None:
        self.settings, self.names, self.worker, self.pickling, self.writer = settings, names, worker, pickling, writer
        #: Tracing replaces it.
        self.run_step = step
        self.context = context
        self.policies = Policies(settings)
        self.limits = TimeLimits(self.hangs)

    def rules_for(self, owned: OwnedPartition) -> StepRules:
        """The rules for the partition's next step."""
        return StepRules(
            partition=-1 if owned.number is None else owned.number,
            policy_of=self.policies.of,
            mailbox_messages=self.settings.mailbox_messages,
            pickling=self.pickling,
            clock=time.perf_counter,
            random=random.random,
            seconds=self.settings.batch_seconds,
            writer=self.writer,
            message_bytes=self.settings.message_bytes,
            now=owned.server_now(),
            inline=not self.context.needs_calls(),
            begins=self.context.current.follow,
        )

    def step(self, items: Sequence[Item], states: States, rules: StepRules, **how: Any) -> Outcome:
        """`celery_partitions.model.step.step`, with what a Celery worker provides around tasks."""
        with self.context.batch():
            return self.run_step(items, states, rules, **how)

    def call(self, owned: OwnedPartition, call: Call) -> object:
        """Call a computation for a step, under its time limit if it has one."""
        seconds = call.computation.time_limit_seconds

        def run(function: Callable[[Call], Any]) -> Any:
            if seconds is None:
                return function(call)
            return self.limits.call(function, [call], seconds, (owned.lease, call.item))

        return self.context.call(call, run)

    def hangs(self, about: tuple[Lease, Work], why: str) -> None:
        """Replace the process, because a computation cannot be interrupted. Runs in the watchdog's thread."""
        lease, item = about
        logger.error(
            "partition %s: %s of key %r %s (message %s) and cannot be interrupted: replacing this process",
            lease.partition,
            item.computation.name,
            item.key,
            why,
            item.envelope.headers.id,
            extra=log_fields_of(lease.partition, item),
        )
        replace_process(self.settings, self.names, self.worker, lease, item.raw, why)
