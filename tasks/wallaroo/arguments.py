"""The command line of a Wallaroo application: the runner's options, and the addresses that applications read."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from celery_partitions.wallaroo.computations import WallarooParameterError

#: The whole command line of the loaded application; empty before it is loaded.
COMMAND_LINE: list[str] = []

Address = tuple[str, str] | tuple[str, str, str]

DESCRIPTION = """\
Run an unmodified Wallaroo application (0.6 or older) on partitions: processes for its sources and sinks, and WORKERS workers.
On SIGTERM or Ctrl-C the sources stop, the workers process everything that was read, and the exit code is 0.

The application's application_setup(args) receives the whole command line. Options not listed below belong to the application."""

EPILOG = """\
Without REDIS_URL, the run starts its own Redis server on a free local port, and states are lost when the run ends. With REDIS_URL,
it uses that server. If PARTITIONS_STATE_SIGNING_KEY is also set, states survive the run in the partition group "wallaroo-MODULE"
(PARTITIONS_GROUP). Otherwise the run uses a temporary key and group.

A message whose computation raises is logged and becomes a dead letter; its key continues (PARTITIONS_RETRY_ATTEMPTS,
PARTITIONS_RETRY_EXHAUSTED).
Exit codes: 0: everything that was read was processed and delivered. 1: messages are left, or a process failed to start. 2: wrong
usage, or the application failed at import or in application_setup."""


@dataclass(frozen=True, slots=True)
class Options:
    """The runner's own options."""

    module: str
    workers: int
    #: How many seconds the run may take after SIGTERM to process what was read.
    drain_seconds: float


def read_options(arguments: Sequence[str]) -> Options:
    """Parse the runner's options and ignore the application's. Prints the usage and exits with 2 on invalid options."""
    parser = argparse.ArgumentParser(
        prog="python -m celery_partitions.wallaroo",
        description=DESCRIPTION,
        epilog=EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--application-module", required=True, metavar="MODULE", help="the module's import name, found in this folder or on PYTHONPATH")
    parser.add_argument("-i", "--in", metavar="[NAME@]HOST:PORT,…", help="where TCP sources listen (the application reads it)")
    parser.add_argument("-o", "--out", metavar="[NAME@]HOST:PORT,…", help="where TCP sinks connect (the application reads it)")
    parser.add_argument("--workers", type=_count, help="number of worker processes (default: --worker-count, or 1)")
    parser.add_argument("--drain-seconds", type=float, default=60.0, help="seconds to process what was read, after SIGTERM (default: 60)")
    machida = parser.add_argument_group("Machida's options", "accepted, but only --worker-count has an effect")
    machida.add_argument("--worker-count", type=_count, help=argparse.SUPPRESS)
    for option in ("metrics", "control", "data", "external", "name", "worker-name", "ponythreads"):
        machida.add_argument(f"--{option}", metavar="…", help=argparse.SUPPRESS)
    machida.add_argument("--cluster-initializer", action="store_true", help="always present in wallaroo._ARGS")
    for option in ("run-with-resilience", "ponynoblock", "ponypinasio"):
        machida.add_argument(f"--{option}", action="store_true", help=argparse.SUPPRESS)
    found, _ = parser.parse_known_args(arguments)
    return Options(found.application_module, found.workers or found.worker_count or 1, found.drain_seconds)


def tcp_parse_input_addrs(args: Sequence[str]) -> list[Any]:
    """The addresses in `--in` (`-i`): each `(host, port)`, or `(name, host, port)` if it has a name. All parts are strings.

    Raises `WallarooParameterError` if `--in` is missing or invalid.
    """
    return _addresses(args, "-i", "--in")


def tcp_parse_output_addrs(args: Sequence[str]) -> list[Any]:
    """The addresses in `--out` (`-o`), in the form of `tcp_parse_input_addrs`."""
    return _addresses(args, "-o", "--out")


def _addresses(args: Sequence[str], *options: str) -> list[Address]:
    parser = argparse.ArgumentParser(prog="wallaroo", add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(*options, dest="addresses")
    try:
        given = parser.parse_known_args(list(args))[0].addresses
    except (argparse.ArgumentError, SystemExit) as error:
        raise WallarooParameterError(f"{options[1]}: {error}") from error
    if given is None:
        raise WallarooParameterError(f"the application needs {options[1]} host:port[,host:port…] on the command line")
    return [_address(text.strip(), options[1]) for text in given.split(",") if text.strip()]


def _address(text: str, option: str) -> Address:
    name, at, place = text.rpartition("@")
    host, colon, port = place.rpartition(":")
    if not colon or not host or not port.isdigit():
        raise WallarooParameterError(f"{option}: {text!r} is not valid: expected host:port or name@host:port")
    return (name, host, port) if at else (host, port)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number
