"""Every setting of the product, read from the environment once, frozen, with its unit in its name.

This is the only file that turns the environment into settings; programs that start others (`celery_partitions.demo`, `celery_partitions.wallaroo`) make the
environment of their children, and let it be checked here. A value that can't be used raises `SettingsError`,
which names the variable, the value and what would do.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

T = TypeVar("T")

#: Variables whose values are never shown.
SECRETS = {"STATE_SIGNING_KEY"}

#: Where a Redis server listens when nobody says otherwise.
DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/0"
#: What sentinels call the master in Redis's own examples.
DEFAULT_SENTINEL_MASTER = "mymaster"


class SettingsError(ValueError):
    """An environment variable holds what can't be used; the message says what can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The values a process runs with. Made by `Settings.from_environment`, or in code for `celery_partitions.install`."""

    #: `REDIS_URL`: redis://, rediss:// (TLS), redis+socket:///path or unix:///path, sentinel://a;sentinel://b.
    redis_url: str = DEFAULT_REDIS_URL
    #: `REDIS_TLS_VERIFY`: verify the server's certificate (rediss://). `0` for a PaaS with self-signed ones.
    redis_tls_verify: bool = True
    #: `REDIS_TLS_CA_FILE`: a file of CA certificates to verify by, for a CA of one's own; None: the system's.
    redis_tls_ca_file: str | None = None
    #: `REDIS_SENTINEL_MASTER`: the name of the master, with a sentinel:// URL.
    redis_sentinel_master: str = DEFAULT_SENTINEL_MASTER
    #: No variable: the `sentinel_kwargs` of an app's own broker_transport_options (the sentinels' password, …), as pairs.
    redis_sentinel_kwargs: tuple[tuple[str, Any], ...] = field(default=(), repr=False)
    #: `REDIS_TIMEOUT_SECONDS`: how long one reply may take. Longer than the slowest script (~0.1 s), shorter
    #: than an operator's patience.
    redis_timeout_seconds: float = 10.0

    #: `PARTITION_GROUP`: the name of this set of queues, and of its ingress.
    partition_group: str = "partition"
    #: `PARTITIONS`: N, fixed in Redis by the first process that uses the group.
    partitions: int = 4

    #: `STATE_SIGNING_KEY`: secrets, comma-separated; the first signs, all verify. Empty: states are unsigned.
    state_signing_keys: tuple[bytes, ...] = ()

    #: `PARTITIONS_UNSIGNED_STATES`: whether workers start without a signing key although Redis is on another machine.
    unsigned_states: bool = False

    #: `STATE_MODULES`: what a state may be made of beside plain data and its own module's classes, comma-separated:
    #: `shop.models` (its classes), `shop.*` (of all its imported modules), `shop.models:rebuild` (that function), `*` (whatever an
    #: imported module has: only with STATE_SIGNING_KEY).
    state_modules: tuple[str, ...] = ()

    #: `WALLAROO_ARGUMENTS`: the whole command line of a Wallaroo application, for `-A celery_partitions.wallaroo.application`, quoted as in a shell.
    wallaroo_arguments: tuple[str, ...] = ()

    #: `MESSAGE_BYTES`: a longer message, as it lies in the queue or decompressed, is not decoded but a dead letter.
    #: JSON of this size may take 25 times as much memory as Python objects.
    message_bytes: int = 8_000_000

    #: `LEASE_SECONDS`: how long a worker that says nothing keeps its partitions. Longer than a stop of the
    #: whole process (a garbage collection, a slow disk); renewed every third of it.
    lease_seconds: float = 5.0

    #: `BATCH_MESSAGES`: at most so many messages in one commit.
    batch_messages: int = 2000
    #: `BATCH_BYTES`: at most so many bytes of messages in one commit (always at least one message).
    batch_bytes: int = 4_000_000
    #: `BATCH_SECONDS`: computations of one batch stop after this long and commit what they have.
    batch_seconds: float = 0.2
    #: `STATE_CACHE_KEYS`: states a worker keeps in memory, over all its partitions.
    state_cache_keys: int = 100_000

    #: `RETRY_ATTEMPTS`: retries of a message whose computation raises, before `RETRY_THEN` decides what follows.
    retry_attempts: int = 3
    #: `RETRY_BACKOFF_SECONDS`: wait before the first retry; doubles with each.
    retry_backoff_seconds: float = 1.0
    #: `RETRY_LONGEST_BACKOFF_SECONDS`: no wait between two tries is longer.
    retry_longest_backoff_seconds: float = 300.0
    #: `RETRY_THEN`: what follows the last retry: park (the key waits and is tried again), dead_letter, hold or stop.
    retry_then: Literal["park", "dead_letter", "hold", "stop"] = "park"
    #: `MAILBOX_MESSAGES`: so many messages wait for one parked key; later ones become dead letters.
    mailbox_messages: int = 10_000
    #: `DEATHS`: a message over which so many workers died becomes a dead letter. 0: never.
    deaths: int = 3
    #: `DEDUPLICATE_IDS`: ids remembered for one computation and partition, 60 to 80 bytes each, where it drops duplicates.
    deduplicate_ids: int = 500_000

    #: `QUEUE_MAX_LENGTH`: Python producers send nothing to a partition's queue that has so many messages. 0: no limit.
    queue_max_length: int = 0

    #: `WAIT_REPLICAS`: a commit is waited for until so many replicas have it, or `WAIT_MILLISECONDS` have passed. 0: none.
    wait_replicas: int = 0
    #: `WAIT_MILLISECONDS`: longer than a replica is behind; shorter than `REDIS_TIMEOUT_SECONDS`, in which the answer comes.
    wait_milliseconds: int = 1000

    #: `EVENTS_PER_SECOND`: tasks a second whose events a worker sends in full; past it they are sampled.
    events_per_second: float = 200.0

    #: `LOG_FORMAT`: how a worker, and the process of a source or sink, writes its log: `text`, or `json`, an object a line.
    log_format: Literal["text", "json"] = "text"

    #: `METRICS_PORT`: where a worker answers Prometheus, of the partitions that it holds. 0: the system picks a port, which the worker
    #: logs; None: nowhere.
    metrics_port: int | None = None
    #: `METRICS_HOST`: the address that it listens on. Whoever reaches it reads the numbers: there is no login.
    metrics_host: str = "127.0.0.1"

    #: `TRACING`: OpenTelemetry spans of messages sent, processed and committed. Some 30 µs a message that is sampled.
    tracing: bool = False
    #: `TRACING_KEYS`: spans tell the messages' keys, which may be personal data.
    tracing_keys: bool = False

    def __post_init__(self) -> None:
        """Of values given in code what would break far from here; raises `SettingsError`. Those of the environment are parsed."""
        if not 1 <= self.partitions <= MOST_PARTITIONS:
            raise SettingsError(f"partitions={self.partitions} can't be used: from 1 to {MOST_PARTITIONS} are wanted")
        if not self.partition_group:
            raise SettingsError("partition_group='' can't be used: the queues need a name")
        for name in ("redis_timeout_seconds", "lease_seconds", "batch_seconds", "batch_messages", "batch_bytes", "message_bytes"):
            if not 0 < getattr(self, name) <= (MOST_SECONDS if name.endswith("_seconds") else MOST_MESSAGE_BYTES):
                raise SettingsError(f"{name}={getattr(self, name)} can't be used: it is zero or less, or too large")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read all settings; raises `SettingsError` for the first value that can't be used."""
        env = os.environ if environ is None else environ
        default = cls()

        def read(name: str, parse: Callable[[str], T], otherwise: T) -> T:
            text = env.get(name, "").strip()
            if not text:
                return otherwise
            try:
                return parse(text)
            except ValueError as error:
                shown = "(secret)" if name in SECRETS else repr(text)
                raise SettingsError(f"{name}={shown} can't be used: {error}") from None

        found = cls(
            redis_url=read("REDIS_URL", str, default.redis_url),
            redis_tls_verify=read("REDIS_TLS_VERIFY", _switch, default.redis_tls_verify),
            redis_tls_ca_file=read("REDIS_TLS_CA_FILE", _file, default.redis_tls_ca_file),
            redis_sentinel_master=read("REDIS_SENTINEL_MASTER", str, default.redis_sentinel_master),
            redis_timeout_seconds=read("REDIS_TIMEOUT_SECONDS", _positive, default.redis_timeout_seconds),
            partition_group=read("PARTITION_GROUP", _group_name, default.partition_group),
            partitions=read("PARTITIONS", _partition_count, default.partitions),
            state_signing_keys=read("STATE_SIGNING_KEY", _signing_keys, default.state_signing_keys),
            unsigned_states=read("PARTITIONS_UNSIGNED_STATES", _switch, default.unsigned_states),
            state_modules=read("STATE_MODULES", _state_modules, default.state_modules),
            wallaroo_arguments=read("WALLAROO_ARGUMENTS", _words, default.wallaroo_arguments),
            message_bytes=read("MESSAGE_BYTES", _message_bytes, default.message_bytes),
            lease_seconds=read("LEASE_SECONDS", _positive, default.lease_seconds),
            batch_messages=read("BATCH_MESSAGES", _count, default.batch_messages),
            batch_bytes=read("BATCH_BYTES", _count, default.batch_bytes),
            batch_seconds=read("BATCH_SECONDS", _positive, default.batch_seconds),
            state_cache_keys=read("STATE_CACHE_KEYS", _count, default.state_cache_keys),
            retry_attempts=read("RETRY_ATTEMPTS", _count_or_zero, default.retry_attempts),
            retry_backoff_seconds=read("RETRY_BACKOFF_SECONDS", _positive, default.retry_backoff_seconds),
            retry_longest_backoff_seconds=read(
                "RETRY_LONGEST_BACKOFF_SECONDS", _positive, default.retry_longest_backoff_seconds
            ),
            retry_then=read("RETRY_THEN", _then, default.retry_then),
            mailbox_messages=read("MAILBOX_MESSAGES", _count, default.mailbox_messages),
            deaths=read("DEATHS", _count_or_zero, default.deaths),
            deduplicate_ids=read("DEDUPLICATE_IDS", _count, default.deduplicate_ids),
            queue_max_length=read("QUEUE_MAX_LENGTH", _count_or_zero, default.queue_max_length),
            wait_replicas=read("WAIT_REPLICAS", _count_or_zero, default.wait_replicas),
            wait_milliseconds=read("WAIT_MILLISECONDS", _count, default.wait_milliseconds),
            events_per_second=read("EVENTS_PER_SECOND", _zero_or_more, default.events_per_second),
            log_format=read("LOG_FORMAT", _log_format, default.log_format),
            metrics_port=read("METRICS_PORT", _port, default.metrics_port),
            metrics_host=read("METRICS_HOST", str, default.metrics_host),
            tracing=read("TRACING", _switch, default.tracing),
            tracing_keys=read("TRACING_KEYS", _switch, default.tracing_keys),
        )
        if "*" in found.state_modules and not found.state_signing_keys:
            raise SettingsError("STATE_MODULES='*' can't be used: it is for signed states only, and STATE_SIGNING_KEY is not set")
        if found.wait_replicas and found.wait_milliseconds >= found.redis_timeout_seconds * 1000:
            raise SettingsError(
                f"WAIT_MILLISECONDS={found.wait_milliseconds} can't be used: less than REDIS_TIMEOUT_SECONDS "
                f"({found.redis_timeout_seconds:g} s) is wanted, in which the answer has to come"
            )
        return found


#: More queues than this and one worker's blocking connections alone would fill a small server.
MOST_PARTITIONS = 4096


#: Three years: of seconds, and so long as no clock of a system call overflows.
MOST_SECONDS = 100_000_000


def _switch(text: str) -> bool:
    match text.lower():
        case "1" | "true" | "yes" | "on":
            return True
        case "0" | "false" | "no" | "off":
            return False
        case _:
            raise ValueError("say 1 or 0")


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError("a number is wanted") from None
    if not abs(number) <= MOST_SECONDS:
        raise ValueError(f"a number of at most {MOST_SECONDS:,} is wanted")
    return number


def _positive(text: str) -> float:
    number = _number(text)
    if number <= 0:
        raise ValueError("a number above zero is wanted")
    return number


def _zero_or_more(text: str) -> float:
    number = _number(text)
    if number < 0:
        raise ValueError("zero or more is wanted")
    return number


def _integer(text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        raise ValueError("a whole number is wanted") from None
    if number < least:
        raise ValueError(f"a whole number of at least {least} is wanted")
    return number


def _count(text: str) -> int:
    return _integer(text, 1)


def _count_or_zero(text: str) -> int:
    return _integer(text, 0)


def _port(text: str) -> int:
    number = _integer(text, 0)
    if number > 65535:
        raise ValueError("at most 65535")
    return number


def _partition_count(text: str) -> int:
    number = _integer(text, 1)
    if number > MOST_PARTITIONS:
        raise ValueError(f"at most {MOST_PARTITIONS} partitions")
    return number


def _then(text: str) -> Literal["park", "dead_letter", "hold", "stop"]:
    match text:
        case "park" | "dead_letter" | "hold" | "stop":
            return text
        case _:
            raise ValueError("say park, dead_letter, hold or stop")


def _log_format(text: str) -> Literal["text", "json"]:
    match text:
        case "text" | "json":
            return text
        case _:
            raise ValueError("say text or json")


def _group_name(text: str) -> str:
    if not all(c.isalnum() or c in "-_" for c in text):
        raise ValueError("letters, digits, - and _ only")
    return text


#: A message that is read may have to be written into a dead letter in base64, and a server takes 512 MB.
MOST_MESSAGE_BYTES = 256_000_000


def _message_bytes(text: str) -> int:
    number = _integer(text, 1)
    if number > MOST_MESSAGE_BYTES:
        raise ValueError(f"at most {MOST_MESSAGE_BYTES} bytes")
    return number


def _file(text: str) -> str:
    if not Path(text).is_file():
        raise ValueError("there is no such file")
    return text


def _state_modules(text: str) -> tuple[str, ...]:
    entries = tuple(part.strip() for part in text.split(",") if part.strip())
    for entry in entries:
        if entry == "*":
            continue
        module, colon, name = entry.removesuffix(".*").partition(":")
        if not all(word.isidentifier() for word in [*module.split("."), *(name.split(".") if colon else ())]):
            raise ValueError(f"{entry!r} is none of: a module, a package.*, module:name, *")
    return entries


def _words(text: str) -> tuple[str, ...]:
    return tuple(shlex.split(text))


def _signing_keys(text: str) -> tuple[bytes, ...]:
    keys = tuple(part.strip().encode() for part in text.split(",") if part.strip())
    if any(len(key) < 16 for key in keys):
        raise ValueError("each signing key needs at least 16 characters (try: openssl rand -hex 32)")
    return keys
