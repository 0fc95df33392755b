"""Every setting of the product, declared once: its name, type, default, parser and help.

These declarations are used for parsing (`resolution`), for the table in the settings guide and for `celery -A APP partitions settings`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from celery_partitions_config.declaration import Setting, setting
from celery_partitions_config.parsers import (
    MAX_MESSAGE_BYTES,
    MAX_PARTITIONS,
    MAX_SECONDS,
    one_of,
    parse_count,
    parse_count_or_zero,
    parse_file,
    parse_group,
    parse_hosts,
    parse_message_bytes,
    parse_number,
    parse_partitions,
    parse_port,
    parse_queues,
    parse_seconds,
    parse_signing_keys,
    parse_state_modules,
    parse_switch,
    parse_words,
)

#: Where a Redis server listens when nothing else is configured.
DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/0"
#: The name of the master in Redis's own examples of Sentinel.
DEFAULT_SENTINEL_MASTER = "mymaster"


class SettingsError(ValueError):
    """A setting has a value that is not valid. The message names the setting and says what was expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The values a process runs with. In code, name only what you want to fix: `install(app, Settings(lease_seconds=10))`."""

    redis_url: str = setting(
        DEFAULT_REDIS_URL, str, variable="REDIS_URL",
        help="The Redis server: redis://, rediss:// (TLS), unix:///path or redis+socket:///path, sentinel://host:26379;sentinel://…. "
        "An app that has a broker_url uses that instead.",
    )
    partitions_url: str = setting(
        "", str, variable="PARTITIONS_URL",
        help="Where the partitions are, if not in REDIS_URL: a cluster, redis+cluster://host:7000,other:7000 (also valkey+cluster://, "
        "rediss+cluster:// for TLS; some of its nodes are enough), or a list of plain servers, redis://host:6379,other:6379. Celery's own "
        "queues, events and results, and the group's own keys, stay in REDIS_URL.",
    )
    partitions: int = setting(
        16, parse_partitions, variable="PARTITIONS",
        help="The number of partitions. The first process that uses the group writes it to Redis, and it is fixed from then on.",
    )
    group: str = setting(
        "partition", parse_group,
        help="The name of the partition group, and so of its queues: partition, partition.0, partition.1, …",
    )
    redis_tls_verify: bool = setting(
        True, parse_switch,
        help="Verify the server's certificate (rediss://). Set 0 for a provider with self-signed certificates.",
    )
    redis_tls_ca_file: str | None = setting(
        None, parse_file,
        help="A file of CA certificates that the server's certificate is verified with, instead of the system's.",
    )
    redis_sentinel_master: str = setting(
        DEFAULT_SENTINEL_MASTER, str,
        help="The name of the master, with a sentinel:// URL.",
    )
    redis_timeout_seconds: float = setting(
        10.0, parse_seconds,
        help="How long to wait for one reply of Redis. Must be longer than the slowest script (about 0.1 s).",
    )
    state_signing_keys: tuple[bytes, ...] = setting(
        (), parse_signing_keys, variable="PARTITIONS_STATE_SIGNING_KEY", secret=True,
        help="Secrets that states are signed with, separated by commas. The first signs, all verify. Not set: states are not signed.",
    )
    unsigned_states: bool = setting(
        False, parse_switch, used_by="workers",
        help="Let workers start without a signing key even if Redis is on another machine.",
    )
    state_modules: tuple[str, ...] = setting(
        (), parse_state_modules,
        help="What a state may contain besides plain data and the classes of its own module, separated by commas: shop.models (its "
        "classes), shop.* (those of all its imported modules), shop.models:rebuild (that function), * (anything in an imported module; "
        "needs a signing key).",
    )
    message_bytes: int = setting(
        8_000_000, parse_message_bytes,
        help="The largest message, as it is in the queue and after decompression. A larger one becomes a dead letter. As Python objects, "
        "JSON can take 25 times its size in memory.",
    )
    dashboard_hosts: tuple[str, ...] = setting(
        (), parse_hosts, used_by="dashboard",
        help="Names, separated by commas, under which Flower may be opened while it has no login, besides localhost and its address.",
    )
    tracing: bool = setting(
        False, parse_switch,
        help="Create OpenTelemetry spans for messages that are sent, processed and committed. About 30 µs for a sampled message.",
    )
    tracing_keys: bool = setting(
        False, parse_switch,
        help="Put the messages' keys into spans. Keys may be personal data.",
    )

    queue_max_length: int = setting(
        0, parse_count_or_zero,
        help="Python producers refuse to send to a partition whose queue has this many messages. As many may wait for a hot key's turn, in workers. "
        "0: no limit.",
    )

    lease_seconds: float = setting(
        5.0, parse_seconds, used_by="workers",
        help="How long a silent worker keeps its partitions; a lease is renewed at every third of it. Must be longer than any pause of the "
        "process (garbage collection, a slow disk).",
    )
    batch_messages: int = setting(
        2000, parse_count, used_by="workers",
        help="The maximum number of messages in one commit.",
    )
    batch_bytes: int = setting(
        4_000_000, parse_count, used_by="workers",
        help="The maximum size in bytes of the messages in one commit, as they are in the queue. Decompressed and decoded they may take 8 "
        "times as much memory; a batch ends before that. A larger message is committed alone.",
    )
    batch_seconds: float = setting(
        0.2, parse_seconds, used_by="workers",
        help="After this time a batch stops and commits what it has computed.",
    )
    concurrency: int = setting(
        100, parse_count, used_by="workers",
        help="The maximum number of calls of one async or threaded computation that are in flight in one worker process, unless its declaration has "
        "concurrency=.",
    )
    bytes_in_flight: int = setting(
        64_000_000, parse_count, used_by="workers",
        help="How many bytes the messages and stored states of all calls in flight may have in one worker process. Above that no more calls "
        "start. One call is always allowed.",
    )
    stop_seconds: float = setting(
        10.0, parse_seconds, used_by="workers",
        help="How long a worker that stops (SIGTERM) waits for its calls in flight. Those that are not done run again on another "
        "worker. Must be shorter than the time until SIGKILL.",
    )
    batch_state_bytes: int = setting(
        32_000_000, parse_count, used_by="workers",
        help="About how many bytes the stored states of one batch's keys may have together. As objects they take several times as much. The "
        "states of one message are always loaded.",
    )
    state_cache_keys: int = setting(
        100_000, parse_count, used_by="workers",
        help="How many states a worker keeps in memory, over all its partitions.",
    )
    state_cache_bytes: int = setting(
        256_000_000, parse_count, used_by="workers",
        help="How many bytes the states in a worker's memory may have, counted as they are stored, over all its partitions. As objects "
        "they take several times as much.",
    )
    retry_attempts: int = setting(
        3, parse_count_or_zero, used_by="workers",
        help="How often a message is retried when its computation raises.",
    )
    retry_backoff_seconds: float = setting(
        1.0, parse_seconds, used_by="workers",
        help="The wait before the first retry. It doubles with each retry.",
    )
    retry_longest_backoff_seconds: float = setting(
        300.0, parse_seconds, used_by="workers",
        help="The longest wait between two retries.",
    )
    retry_exhausted: Literal["park", "dead_letter", "hold", "stop"] = setting(
        "park", one_of("park", "dead_letter", "hold", "stop"), used_by="workers",
        help="What happens after the last retry: park (the key waits and is retried later), dead_letter, hold (the key waits for an "
        "operator) or stop (the partition waits for an operator).",
    )
    deploy_wait_seconds: float = setting(
        300.0, parse_number, used_by="workers",
        help="How long messages wait in order if their task is unknown to the worker, or their key's state cannot be read, before they become "
        "dead letters: the time to finish a deploy, or to undo it. At least a third of PARTITIONS_LEASE_SECONDS. 0: they become dead letters at once.",
    )
    beat: bool = setting(
        False, parse_switch,
        help="Run the app's beat_schedule in partition workers, without celery beat. Set it in the environment of workers and commands, or call "
        "install(app, beat=True).",
    )
    beat_catch_up: Literal["one", "none", "all"] = setting(
        "one", one_of("one", "none", "all"), used_by="workers",
        help="With PARTITIONS_BEAT, what happens with runs that were missed in an outage: one of them, none, or all (up to 100 of an entry).",
    )
    timeline_bytes: int = setting(
        0, parse_count_or_zero, used_by="workers",
        help="How many bytes per partition the timelines of keys may have: what happened to each key, with its states before and after. They are "
        "on the key's page and in `partitions watch`. 0: none are written. States may be personal data.",
    )
    timeline_seconds: float = setting(
        86_400.0, parse_seconds, used_by="workers",
        help="A key's timeline is deleted when the key has not changed for this long.",
    )
    mailbox_messages: int = setting(
        10_000, parse_count, used_by="workers",
        help="How many messages may wait for one parked key. Later ones become dead letters.",
    )
    max_worker_crashes: int = setting(
        3, parse_count_or_zero, used_by="workers",
        help="A message becomes a dead letter if this many workers crashed over it, after a first crash that names no message. "
        "0: never, and a message that stalls its worker does not either: it is run again and again, and its partition waits.",
    )
    deduplicate_ids: int = setting(
        500_000, parse_count, used_by="workers",
        help="How many message ids are remembered per computation and partition, for deduplication. 60 to 80 bytes each.",
    )
    wait_replicas: int | None = setting(
        None, parse_count_or_zero, used_by="workers",
        help="Each commit waits until this many replicas have it, or PARTITIONS_WAIT_MILLISECONDS have passed. Not set: on a cluster with replicas, "
        "what a commit sends to another server waits for one. 0: nothing waits.",
    )
    wait_milliseconds: int = setting(
        1000, parse_count, used_by="workers",
        help="How long a commit waits for replicas. Must be longer than a replica lags and shorter than PARTITIONS_REDIS_TIMEOUT_SECONDS.",
    )
    follow_up_queues: tuple[str, ...] = setting(
        (), parse_queues, used_by="workers",
        help="Queues, separated by commas, to which links, chains and chords of a computation's message may go, besides those that the app "
        "names in task_queues, task_routes and task_default_queue, and the group's own. *: any queue.",
    )
    events_per_second: float = setting(
        200.0, parse_number, used_by="workers",
        help="For how many messages per second a worker sends Celery events, which Flower shows. Above that it sends a sample.",
    )
    log_format: Literal["text", "json"] = setting(
        "text", one_of("text", "json"), used_by="workers",
        help="text, or json: one object a line.",
    )
    metrics_port: int | None = setting(
        None, parse_port, used_by="workers",
        help="The port of a worker's Prometheus endpoint. 0: the system picks one, and the worker logs it. Not set: no endpoint.",
    )
    metrics_host: str = setting(
        "127.0.0.1", str, used_by="workers",
        help="The address of that endpoint. It has no login: anyone who can reach it can read the metrics.",
    )

    wallaroo_arguments: tuple[str, ...] = setting(
        (), parse_words, used_by="wallaroo",
        help="The command line of a Wallaroo application, quoted as in a shell, for -A celery_partitions.wallaroo.application.",
    )

    #: Not a setting: `sentinel_kwargs` of the app's own broker_transport_options (the sentinels' password, …), as pairs.
    redis_sentinel_kwargs: tuple[tuple[str, Any], ...] = field(default=(), repr=False)
    #: Not a setting: the app's own broker_use_ssl, as pairs. Not empty: connect with TLS.
    redis_tls_options: tuple[tuple[str, Any], ...] = field(default=(), repr=False)
    #: The fields that were named when this object was made: these beat the environment.
    given: frozenset[str] = field(init=False, repr=False, compare=False)

    def __new__(cls, **values: Any) -> Settings:
        made = object.__new__(cls)
        object.__setattr__(made, "given", frozenset(values))
        return made

    def __post_init__(self) -> None:
        """Check values given in code that would otherwise fail much later. Raises `SettingsError`."""
        for name in sorted(self.given):
            value, kind = getattr(self, name, None), type(type(self).__dataclass_fields__[name].default)
            fits = isinstance(value, int | float) if kind is float else isinstance(value, kind)
            if kind in (int, float, str, bool) and (not fits or (isinstance(value, bool) and kind is not bool)):
                raise SettingsError(f"{name}={value!r:.80} is not valid: expected {_KINDS[kind]}")
        if not 1 <= self.partitions <= MAX_PARTITIONS:
            raise SettingsError(f"partitions={self.partitions} is not valid: expected an integer from 1 to {MAX_PARTITIONS}")
        if not self.group:
            raise SettingsError("group='' is not valid: expected a name for the queues")
        for name in ("redis_timeout_seconds", "lease_seconds", "batch_seconds", "batch_messages", "batch_bytes", "message_bytes"):
            limit = MAX_SECONDS if name.endswith("_seconds") else MAX_MESSAGE_BYTES
            if not 0 < getattr(self, name) <= limit:
                raise SettingsError(f"{name}={getattr(self, name)} is not valid: expected a number greater than 0, at most {limit:,}")


_KINDS = {int: "an integer", float: "a number", str: "a str", bool: "True or False"}


def _table() -> dict[str, Setting]:
    table: dict[str, Setting] = {}
    for one in fields(Settings):
        if one.metadata:
            variable = one.metadata["variable"] or f"PARTITIONS_{one.name.upper()}"
            option = None if one.name == "redis_url" else variable.lower()
            table[one.name] = Setting(field=one.name, option=option, default=one.default, **{**one.metadata, "variable": variable})
    return table


#: Every setting, by the name of its field.
SETTINGS: Mapping[str, Setting] = _table()
