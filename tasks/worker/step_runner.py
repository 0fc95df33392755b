"""Runs steps with a worker's policies, time limits and pickling, and replaces a process that hangs in one."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import redis

from celery_partitions.model.caller import Call
from celery_partitions.model.items import Item, Work
from celery_partitions.model.message_writer import MessageWriter
from celery_partitions.model.outcome import Outcome, Pickling
from celery_partitions.model.step import step
from celery_partitions.model.step_rules import StepRules
from celery_partitions.store.leases import Lease
from celery_partitions.store.names import Names
from celery_partitions.worker.batch import Batch
from celery_partitions.worker.celery_context import CeleryContext
from celery_partitions.worker.logs import log_fields_of
from celery_partitions.worker.owned import OwnedPartition
from celery_partitions.worker.policies import Policies
from celery_partitions.worker.process_replacement import replace_process
from celery_partitions.worker.time_limits import TimeLimits
from celery_partitions.worker.tokens import Tokens
from celery_partitions_config.settings import Settings

logger = logging.getLogger("celery.worker.partitions")


class CallMaker(Protocol):
    """Makes the calls of steps."""

    def are_needed(self) -> bool:
        """Whether the step must make each call here, also the calls without a time limit."""

    def call(self, owned: OwnedPartition, call: Call) -> object: ...


class StepRunner:
    """Made once per loop and used by its thread.

    `calls`: makes the calls. `context`: what Celery provides around tasks. `clock`: measures the step. `random`: returns 0 to 1, for
    jitter. `client`: for rate limits. `run`: `step`, or one that also makes spans.
    """

    def __init__(
        self,
        settings: Settings,
        pickling: Pickling,
        writer: MessageWriter,
        calls: CallMaker,
        context: CeleryContext,
        *,
        clock: Callable[[], float],
        random: Callable[[], float],
        client: redis.Redis,
        names: Names,
        run: Callable[..., Outcome] = step,
    ) -> None:
        self.settings, self.pickling, self.writer, self.calls, self.context = settings, pickling, writer, calls, context
        self.clock, self.random, self.run = clock, random, run
        self.policies = Policies(settings)
        self.tokens = Tokens(client, names, self.policies.limit_of)
        #: What the app's lifespan yielded.
        self.resources: Mapping[str, Any] = {}

    def step(self, owned: OwnedPartition, batch: Batch, items: Sequence[Item]) -> Outcome:
        """Run the step of a batch, whose states are in memory."""
        rules = self.rules_for(owned, batch)
        with self.context.batch():
            return self.run(
                items,
                owned.cache.young,
                rules,
                call=partial(self.call, owned),
                parked=owned.parked,
                mailbox_lengths=owned.mailbox_lengths,
                own_lines=owned.own_lines,
                mailbox_of=batch.mailbox_of if batch.line is None else None,
                attempt=batch.attempt,
                line=batch.line,
                waited_out=batch.waited_out,
                waited=batch.waited,
                failed=batch.failed,
                halving=batch.halving,
                gathers=not batch.noted,
            )

    def call(self, owned: OwnedPartition, call: Call) -> object:
        """Make a call of a step. Raises what the computation raises, and `NoToken` if its rate limit makes it wait."""
        if call.computation.rate_limit is not None:
            self.tokens.take(owned.partition, call)
        return self.calls.call(owned, call)

    def follow(self, policies: Mapping[str, bytes]) -> None:
        self.policies.follow(policies)

    def rules_for(self, owned: OwnedPartition, batch: Batch | None = None) -> StepRules:
        """The rules for the partition's next step. `batch`: what the loop steps; None: one call outside the loop's thread."""
        longest = self.settings.batch_seconds
        return StepRules(
            partition=-1 if owned.number is None else owned.number,
            policy_of=self.policies.of,
            mailbox_messages=self.settings.mailbox_messages,
            queue_messages=self.settings.queue_max_length or sys.maxsize,
            pickling=self.pickling,
            clock=self.clock,
            random=self.random,
            seconds=longest if batch is None else owned.turn_seconds(batch, longest),
            now=owned.server_now(),
            others_wait=None if batch is None else batch.others_wait,
            writer=self.writer,
            message_bytes=self.settings.message_bytes,
            inline=not self.calls.are_needed(),
            begins=self.context.current.follow,
            unreadable_waits=self.settings.deploy_wait_seconds > 0,
            resources=self.resources,
            app=self.context.app,
            calls_apart=owned.calls is not None,
        )

    def rules_outside(self, owned: OwnedPartition, pickling: Pickling) -> StepRules:
        """The rules for a call outside the loop's thread. `pickling`: not the loop's own, because both may pickle at the same time."""
        return replace(self.rules_for(owned), pickling=pickling, begins=None, calls_apart=False)


class LimitedCalls:
    """Calls computations, each under its time limit if it has one, with what Celery provides around a task. Made once per loop and used by
    its thread, except `hangs`."""

    def __init__(self, settings: Settings, names: Names, worker: str, context: CeleryContext) -> None:
        self.settings, self.names, self.worker, self.context = settings, names, worker, context
        self.limits = TimeLimits(self.hangs)

    def are_needed(self) -> bool:
        return self.context.needs_calls()

    def call(self, owned: OwnedPartition, call: Call) -> object:
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
