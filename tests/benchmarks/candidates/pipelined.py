"""Ours, as pipelines: the same work in one stage, and through two hops. `celery -A pipelined worker`."""

from __future__ import annotations

import os

from trades import Average, Trade, averaged

from celery_partitions import (
    RedisList,
    TCPSinkConfig,
    TCPSourceConfig,
    app,
    build_application,
    decoder,
    encoder,
    key_extractor,
    source,
    state_computation,
)

__all__ = ["SOURCES", "STAGES", "app", "one_stage", "two_hops"]


@key_extractor
def symbol_of(trade: Trade) -> str:
    return trade.symbol


@key_extractor
def reversed_symbol_of(trade: Trade) -> str:
    return trade.symbol[::-1]


def average(trade: Trade, state: Average) -> Trade:
    state.price = averaged(state.price, trade.price)
    return trade


once = state_computation("average, once", state=Average)(average)
first = state_computation("average, first", state=Average)(average)
second = state_computation("average, second", state=Average)(average)

one_stage = source("one stage")
build_application("one stage", one_stage.key_by(symbol_of).to(once).to_sinks([]))

#: The second key moves most trades to another partition. The outputs of the last stage go to a list.
two_hops = source("two hops")
build_application(
    "two hops",
    two_hops.key_by(symbol_of).to(first).key_by(reversed_symbol_of).to(second).to_sink(RedisList("outputs")),
)

# From a TCP source to a TCP sink, with one stage between them.


@decoder(header_length=4, length_fmt=">I")
def decode(payload: bytes) -> Trade:
    symbol, _, price = payload.partition(b" ")
    return Trade(symbol.decode(), float(price))


@encoder
def encode(trade: Trade) -> str:
    return f"{trade.symbol} {trade.price}\n"


between = state_computation("average, between", state=Average)(average)
if "BENCH_IN" in os.environ:
    tcp = source("tcp in", TCPSourceConfig("127.0.0.1", os.environ["BENCH_IN"], decode))
    peer = TCPSinkConfig("127.0.0.1", int(os.environ["BENCH_OUT"]), encode, name="tcp out")
    build_application("tcp", tcp.key_by(symbol_of).to(between).to_sink(peer))

SOURCES = {"one-stage": one_stage, "two-hops": two_hops}
STAGES = {"one-stage": [(once, False)], "two-hops": [(first, False), (second, True)]}
