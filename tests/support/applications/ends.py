"""Pipelines whose sources and sinks run as processes. Environment variables name addresses and files."""

from __future__ import annotations

import json
import os
from typing import Any

from celery_partitions import (
    CallableSink,
    Context,
    FileSink,
    FileSource,
    GenSourceConfig,
    RedisList,
    StdoutSink,
    StreamSource,
    TCPSinkConfig,
    TCPSourceConfig,
    app,
    build_application,
    computation,
    key_extractor,
    source,
    state_computation,
)
from celery_partitions.pipeline.frames import decoder, encoder

__all__ = ["app", "called", "entries", "file_lines", "frames", "sent", "tcp"]


class Count:
    n = 0


# Framed text "key number", counted by key. The output is the frame `[key, number, earlier messages of the key]`.


@decoder(header_length=4, length_fmt=">I")
def decode(payload: bytes) -> tuple[str, int] | None:
    if payload == b"nothing":
        return None
    key, number = payload.decode().split()
    return key, int(number)


@key_extractor
def key_of_pair(pair: tuple[str, int]) -> str:
    if pair[0] == "keyless":
        raise ValueError("it has no key")
    return pair[0]


@state_computation("number of a pair", state=Count)
def numbered(pair: tuple[str, int], count: Count) -> tuple[str, int, int]:
    count.n += 1
    return *pair, count.n


@encoder
def encode(triple: tuple[str, int, int]) -> bytes:
    payload = json.dumps(triple).encode()
    return len(payload).to_bytes(4, "big") + payload


sink_port = int(os.environ.get("SINK_PORT", "1"))
frames = source("frames", TCPSourceConfig("127.0.0.1", int(os.environ.get("SOURCE_PORT", "0")), decode))
tcp = build_application("tcp", frames.key_by(key_of_pair).to(numbered).to_sink(TCPSinkConfig("127.0.0.1", sink_port, encode, name="out")))


# A producer's messages, to each kind of sink.


@computation("pass to ends")
def pass_on(message: dict[str, Any]) -> object:
    return (message["key"], message["number"]) if message.get("as_pair") else message


@key_extractor
def key_of(message: dict[str, Any]) -> str:
    return str(message["key"])


#: The Redis list that the function of a sink appends to.
CALLED = "called"


def call(output: dict[str, Any] | tuple[str, int], context: Context) -> None:
    if isinstance(output, tuple):
        output = {"key": "a pair", "number": output[1]}
    if output.get("fails"):
        raise ValueError("this one never works")
    app.connection_for_write().default_channel.client.rpush(CALLED, json.dumps([output["key"], output["number"], context.key, context.message_id]))


sent = source("sent to ends")
called = build_application(
    "sent to ends",
    sent.key_by(key_of).to(pass_on).to_sinks([
        CallableSink(call),
        FileSink(os.environ.get("SINK_FILE", "out.jsonl"), name="file"),
        StdoutSink(),
    ]),
)


# Sources that can be read again.


class Numbers:
    """Generates 1 to `GENERATED`. It keeps its own count and ignores the value that it is given."""

    def __init__(self) -> None:
        self.given = [0]

    def initial_value(self) -> int:
        self.given[0] = 1
        return 1

    def apply(self, value: int) -> int | None:
        self.given[0] += 1
        return self.given[0] if value < int(os.environ.get("GENERATED", "1000")) else None


def spread_out(number: int) -> str:
    return f"key-{number % 7}"


generated = source("generated", GenSourceConfig(Numbers))
build_application("generator", generated.key_by(spread_out).to_sink(RedisList("generated numbers")))

file_lines = source("lines of a file", FileSource(os.environ.get("SOURCE_FILE", "in.jsonl"), follow="FOLLOW" in os.environ))
build_application("file", file_lines.key_by(key_of).to_sink(RedisList("lines read")))

entries = source("entries", StreamSource("entries in", field="message"))
build_application("stream", entries.key_by(key_of).to_sink(RedisList("entries read")))
