"""The command line of a Wallaroo application: what the runner reads of it, and what applications ask of it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from celery_partitions.wallaroo.computations import WallarooParameterError

#: Of the application that is loaded, whole; empty before.
COMMAND_LINE: list[str] = []

Address = tuple[str, str] | tuple[str, str, str]

DESCRIPTION = """\
Run an unmodified Wallaroo application, of 0.6 or older, on partitions: a process for each of its sources and sinks, and WORKERS
workers, until SIGTERM or Ctrl-C; then what was read is worked off, and the exit code is 0.

The application's application_setup(args) is given the whole command line; options that are not below are the application's own."""

EPILOG = """\
With REDIS_URL unset a server is started for the run, on a port of this machine's own, and is gone with it: states live as
long as the run. With REDIS_URL set it is that server. With PARTITIONS_STATE_SIGNING_KEY set too, states outlive the run, in the partition group
"wallaroo-MODULE" (PARTITIONS_GROUP); without, the run has a key and a group of its own.

A message whose computation raises is logged and becomes a dead letter, and its key goes on (PARTITIONS_RETRY_ATTEMPTS, PARTITIONS_RETRY_EXHAUSTED).
Exit codes: 0 all that was read was worked off and delivered; 1 something is left, or a process can't be started; 2 wrong usage,
or an error of the application at import or in application_setup."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the runner reads of the command line."""

    module: str
    workers: int
    #: After SIGTERM so many seconds are given to work off what was read.
    drain_seconds: float


def read_options(arguments: Sequence[str]) -> Options:
    """Read the runner's options; the others are the application's. Prints the usage and exits with 2 when they can't be used."""
    parser = argparse.ArgumentParser(
        prog="python -m celery_partitions.wallaroo",
        description=DESCRIPTION,
        epilog=EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--application-module", required=True, metavar="MODULE", help="as imported from this folder or PYTHONPATH")
    parser.add_argument("-i", "--in", metavar="[NAME@]HOST:PORT,…", help="where TCP sources listen (the application reads it)")
    parser.add_argument("-o", "--out", metavar="[NAME@]HOST:PORT,…", help="where TCP sinks connect (the application reads it)")
    parser.add_argument("--workers", type=_count, help="so many worker processes (default: --worker-count, or 1)")
    parser.add_argument("--drain-seconds", type=float, default=60.0, help="given to work off what was read, after SIGTERM (default: 60)")
    machida = parser.add_argument_group("Machida's options", "known, and without effect here but for --worker-count")
    machida.add_argument("--worker-count", type=_count, help=argparse.SUPPRESS)
    for option in ("metrics", "control", "data", "external", "name", "worker-name", "ponythreads"):
        machida.add_argument(f"--{option}", metavar="…", help=argparse.SUPPRESS)
    machida.add_argument("--cluster-initializer", action="store_true", help="the application finds it in wallaroo._ARGS always")
    for option in ("run-with-resilience", "ponynoblock", "ponypinasio"):
        machida.add_argument(f"--{option}", action="store_true", help=argparse.SUPPRESS)
    found, _ = parser.parse_known_args(arguments)
    return Options(found.application_module, found.workers or found.worker_count or 1, found.drain_seconds)


def tcp_parse_input_addrs(args: Sequence[str]) -> list[Any]:
    """The addresses of `--in` (`-i`), each `(host, port)`, or `(name, host, port)` where a name was given; all are texts.

    Raises `WallarooParameterError` when there is none.
    """
    return _addresses(args, "-i", "--in")


def tcp_parse_output_addrs(args: Sequence[str]) -> list[Any]:
    """The addresses of `--out` (`-o`), as `tcp_parse_input_addrs` gives them."""
    return _addresses(args, "-o", "--out")


def _addresses(args: Sequence[str], *options: str) -> list[Address]:
    parser = argparse.ArgumentParser(prog="wallaroo", add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(*options, dest="addresses")
    try:
        given = parser.parse_known_args(list(args))[0].addresses
    except (argparse.ArgumentError, SystemExit) as error:
        raise WallarooParameterError(f"{options[1]}: {error}") from error
    if given is None:
        raise WallarooParameterError(f"the application wants {options[1]} host:port[,host:port…], and the command line has none")
    return [_address(text.strip(), options[1]) for text in given.split(",") if text.strip()]


def _address(text: str, option: str) -> Address:
    name, at, place = text.rpartition("@")
    host, colon, port = place.rpartition(":")
    if not colon or not host or not port.isdigit():
        raise WallarooParameterError(f"{option}: {text!r} is no host:port, nor name@host:port")
    return (name, host, port) if at else (host, port)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number
