"""A run: starts a server if none is configured, and the application's processes. At the end it processes everything that was read."""

from __future__ import annotations

import os
import secrets
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from itertools import islice

import redis

from celery_partitions.admin.workers import read_workers
from celery_partitions.pipeline.sinks import TCPSinkConfig
from celery_partitions.pipeline.sources import TCPSourceConfig
from celery_partitions.producer.pipelines import Application
from celery_partitions.runtime.group import Group
from celery_partitions.sources.stop_signal import Stop
from celery_partitions.testing.server import embedded_server, free_port
from celery_partitions.wallaroo.arguments import Options
from celery_partitions.wallaroo.children import SHORT_LIVES, Child, ended_by
from celery_partitions.wallaroo.unfinished import Waiting, look
from celery_partitions_config.resolution import from_environment

#: How often the processes are checked, and so the longest delay before a dead one is restarted.
LOOK_SECONDS = 0.1
#: How often the queues are checked at the end of the run.
DRAIN_LOOK_SECONDS = 0.03

CELERY = (sys.executable, "-m", "celery", "-q", "-A", "celery_partitions.wallaroo.application")


class RunError(RuntimeError):
    """The run cannot continue. The text says why."""


def run(application: Application, options: Options, arguments: Sequence[str], stop: Stop) -> int:
    """Run the application until `stop`. Returns the exit code. Raises `RunError`, `ServerError`, `SettingsError`."""
    with ExitStack() as stack:
        environment = environment_of_run(os.environ, options, arguments)
        if not environment.get("REDIS_URL"):
            environment["REDIS_URL"] = stack.enter_context(embedded_server(environment, free_port()))
        processes = Processes(application, options, environment)
        stack.callback(processes.end)
        processes.start()
        processes.watch(stop)
        return processes.drain()


def environment_of_run(given: Mapping[str, str], options: Options, arguments: Sequence[str]) -> dict[str, str]:
    """The environment of all processes. Raises `SettingsError` for an invalid variable, `RunError` for a conflict.

    Without PARTITIONS_STATE_SIGNING_KEY the run creates a temporary key, and a temporary partition group on a configured server.
    """
    environment = {name: value for name, value in given.items() if name != "CELERY_BROKER_URL" and value}
    name = "wallaroo-" + options.module.replace(".", "-")
    if not environment.get("PARTITIONS_STATE_SIGNING_KEY"):
        if environment.get("REDIS_URL") and "PARTITIONS_GROUP" in environment:
            raise RunError("PARTITIONS_GROUP is set without PARTITIONS_STATE_SIGNING_KEY, so no later run could read this run's states. Set both, or none")
        environment["PARTITIONS_STATE_SIGNING_KEY"] = secrets.token_hex(32)
        name += "-" + secrets.token_hex(4)
        environment.setdefault("PARTITIONS", str(max(4, 2 * options.workers)))
    defaults = {
        "PARTITIONS_GROUP": name,
        # Messages may contain any class that the application imports. Their signature proves that this run wrote them.
        "PARTITIONS_STATE_MODULES": "*",
        # After an exception the message becomes a dead letter, and its key continues.
        "PARTITIONS_RETRY_ATTEMPTS": "0",
        "PARTITIONS_RETRY_EXHAUSTED": "dead_letter",
    }
    environment = {
        **defaults,
        **environment,
        "PARTITIONS_WALLAROO_ARGUMENTS": shlex.join(arguments),
        # Show the application's output immediately.
        "PYTHONUNBUFFERED": "1",
    }
    from_environment(environment)
    return environment


class Processes:
    """The processes of one run, and their partition group."""

    def __init__(self, application: Application, options: Options, environment: Mapping[str, str]) -> None:
        self.application, self.options = application, options
        self.is_private = not os.environ.get("PARTITIONS_STATE_SIGNING_KEY")
        self.group = Group(from_environment(environment))
        self.sink_names = [name for name, sink in application.sinks.items() if sink.has_process]
        tcp = [name for name, config in application.source_configs.items() if isinstance(config, TCPSourceConfig)]
        # One process for all TCP sources keeps the order between messages that were sent to different ones.
        together = [tcp, *([name] for name in application.source_configs if name not in tcp)]
        self.sources = [
            Child(
                f"source {', '.join(map(repr, names))}",
                [*CELERY, "partitions", "source", "-l", "WARNING", "--", *names],
                environment,
                may_end=True,
            )
            for names in together
            if names
        ]
        self.sinks = [
            Child(f"sink {name!r}", [*CELERY, "partitions", "sink", "-l", "WARNING", "--", name], environment)
            for name in self.sink_names
        ]
        node = options.module.replace(".", "-")
        self.workers = [
            Child(
                f"worker {number}",
                [*CELERY, "worker", "-l", "WARNING", "--without-gossip", "--without-mingle", "-n", f"{node}-{number}@%h"],
                environment,
            )
            for number in range(1, options.workers + 1)
        ]
        self.ended: set[str] = set()

    def start(self) -> None:
        """Start all processes together: what a source reads waits in its queue until a worker is ready."""
        for child in (*self.sources, *self.workers, *self.sinks):
            child.start()
        say(f"{self.application.name}: {self.options.workers} worker{'s' * (self.options.workers > 1)} on {self.group.settings.redis_url}")
        for name, source in self.application.source_configs.items():
            say(f"  source {name!r}" + (f" listens on {source.host}:{source.port}" if isinstance(source, TCPSourceConfig) else ""))
        for name, sink in self.application.sinks.items():
            say(f"  sink {name!r}" + (f" connects to {sink.host}:{sink.port}" if isinstance(sink, TCPSinkConfig) else ""))

    def watch(self, stop: Stop) -> None:
        """Restart processes that die, until the run is asked to stop. Prints once when all workers are ready."""
        ready = False
        while not stop.wait(LOOK_SECONDS):
            self.look_after((*self.sources, *self.workers, *self.sinks))
            if not ready and self.count_ready() >= self.options.workers:
                ready = True
                say("ready: all workers are at work")

    def count_ready(self) -> int:
        try:
            return len([worker for worker in read_workers(self.group.client, self.group.names) if worker.queues])
        except redis.RedisError:
            return 0  # the processes report the outage, and continue when Redis answers

    def look_after(self, children: Sequence[Child]) -> None:
        """Restart processes that died. Raises `RunError` for one that repeatedly fails to start."""
        for child in children:
            code = child.code()
            if code is None or child.title in self.ended:
                continue
            if code == 0 and child.may_end:
                self.ended.add(child.title)
                say(f"{child.title} has ended")
            elif child.revive(code):
                say(f"{child.title} died ({ended_by(code)}) and was restarted")
            else:
                raise RunError(f"{child.title} cannot be started: it ended immediately {SHORT_LIVES} times, with {ended_by(code)}. See its output above")

    def drain(self) -> int:
        """Stop the sources, wait until everything they read is processed and delivered, then stop the rest. Returns the exit code."""
        until = time.monotonic() + self.options.drain_seconds
        say("stopping: the sources stop, and the workers process what they read")
        for source in self.sources:
            source.ask_to_end()
        while any(source.code() is None for source in self.sources) and time.monotonic() < until:
            self.rest()
        left = self.look()
        while left is None or left:
            if time.monotonic() > until:
                say(f"still waiting after {self.options.drain_seconds:g} s: {left or 'unknown, because Redis does not answer'}")
                return 1
            self.rest()
            left = self.look()
        self.end()
        if left.dead:
            say(f"everything is processed, except {left.dead} dead letters (messages that were refused, or whose computation raised)")
        self.forget()
        return 0

    def rest(self) -> None:
        self.look_after((*self.workers, *self.sinks))
        time.sleep(DRAIN_LOOK_SECONDS)

    def look(self) -> Waiting | None:
        """What still waits; None if Redis does not answer."""
        try:
            return look(self.group.client, self.group.names, self.group.topology.served, self.sink_names)
        except redis.RedisError:
            return None

    def forget(self) -> None:
        """Delete a temporary group: without its signing key it can no longer be read."""
        if not self.is_private:
            return
        client = self.group.client
        with suppress(redis.RedisError):
            for pattern in self.group.names.patterns():
                keys = client.scan_iter(pattern, count=1000)
                while some := list(islice(keys, 500)):
                    client.unlink(*some)

    def end(self) -> None:
        """Stop all processes. Safe to call twice."""
        children = (*self.sources, *self.workers, *self.sinks)
        for child in children:
            child.ask_to_end()
        for child in children:
            child.end()


def say(text: str) -> None:
    """Print a line to standard error, because standard output belongs to the application."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
