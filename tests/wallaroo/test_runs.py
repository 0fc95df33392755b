"""Unmodified applications over real TCP: exact outputs per key with any number of workers, and a clean shutdown."""

from __future__ import annotations

import os
import signal
import struct
from collections import defaultdict
from collections.abc import Callable

import pytest
import redis

from tests.support.tcp import Receiver, framed
from tests.support.wait import wait_until
from tests.wallaroo.live import Run

pytestmark = pytest.mark.server

Start = Callable[..., Run]


def vote(letter: str, votes: int = 1) -> bytes:
    return struct.pack(">sI", letter.encode(), votes)


def totals(data: bytes) -> dict[str, list[int]]:
    """Letter → its totals, in the order they were sent."""
    seen: dict[str, list[int]] = defaultdict(list)
    for length, letter, total in struct.iter_unpack(">IsQ", data):
        assert length == 9
        seen[letter.decode()].append(total)
    return seen


@pytest.mark.parametrize("workers", [1, 2])
def test_votes_are_counted_and_a_second_connection_does_not_overtake_the_first(
    run: Start, receiver: Receiver, workers: int
) -> None:
    run_of_votes = run("alphabet", workers=workers, out=receiver.port)
    letters = "abcdefghij"
    with run_of_votes.sender() as first:
        first.sendall(framed(*(vote(letter, 1) for _ in range(500) for letter in letters)))
    with run_of_votes.sender() as second:
        second.sendall(framed(*(vote(letter, 1000) for _ in range(500) for letter in letters)))
        # Stopped at once: everything sent is still processed and delivered.
        assert run_of_votes.end() == 0
    wanted = [*range(1, 501), *range(1500, 500_501, 1000)]
    assert totals(receiver.data) == dict.fromkeys(letters, wanted)


TEXT = ["The cat and the dog,", "a cat.", "", "THE END  of the day", "and the cat"]


def test_words_are_counted_though_a_worker_is_killed(run: Start, receiver: Receiver) -> None:
    words = run("word_count", workers=2, out=receiver.port)
    wanted: dict[str, int] = defaultdict(int)
    sequences: dict[str, list[int]] = defaultdict(list)
    for word in " ".join(TEXT * 300).lower().replace(",", "").replace(".", "").split():
        wanted[word] += 1
        sequences[word].append(wanted[word])
    words.wait_for("ready")
    with words.sender() as connection:
        connection.sendall(framed(*TEXT * 150))
        receiver.wait_lines(100)
        os.kill(words.children("worker")[0], signal.SIGKILL)
        connection.sendall(framed(*TEXT * 150))
    words.wait_for("died (signal 9) and was restarted")
    receiver.wait_lines(sum(wanted.values()))
    assert words.end(signal.SIGINT) == 0
    seen: dict[str, list[int]] = defaultdict(list)
    for line in receiver.lines():
        word, _, count = line.partition(" => ")
        seen[word].append(int(count))
    assert seen == sequences


def test_a_stateless_application_keeps_the_order_and_its_sink_may_start_late(run: Start) -> None:
    reverse = run("reverse")
    with reverse.sender() as connection:
        connection.sendall(framed("one", "nothing", "two", "raise", *(f"word {number}" for number in range(2000))))
        reverse.wait_for("ValueError: asked to")
        with Receiver(reverse.out) as late:
            late.wait_lines(2002)
            assert reverse.end() == 0
            assert late.lines() == [f"{word[::-1]}.!!" for word in ("one", "two", *(f"word {n}" for n in range(2000)))]
    assert "1 dead letter" in reverse.log()


QUOTE, ORDER, RESULT = ">4sdd", ">4sI", ">I4sIdd"


@pytest.mark.parametrize(
    ("module", "inputs", "order", "nbbo", "workers"),
    [
        ("market_spread", ("nbbo", "orders"), 1, 0, 1),
        ("older_market", 2, 0, 1, 2),
    ],
)
def test_orders_are_judged_by_earlier_messages_of_the_other_input(
    run: Start, receiver: Receiver, module: str, inputs: int | tuple[str, ...], order: int, nbbo: int, workers: int
) -> None:
    """All quotes are sent before the first order: no order may overtake its symbol's last quote."""
    market = run(module, inputs=inputs, workers=workers, out=receiver.port)
    symbols = [f"S{number:03}" for number in range(40)]
    wide = set(symbols[::3])
    with market.sender(nbbo) as connection:
        for number in range(50):
            connection.sendall(
                framed(*(struct.pack(QUOTE, s.encode(), 10.0, 11.0 if (s in wide) == (number > 48) else 10.01) for s in symbols))
            )
    with market.sender(order) as connection:
        connection.sendall(framed(*(struct.pack(ORDER, s.encode(), number) for number in range(10) for s in symbols)))
    assert market.end() == 0
    reported = defaultdict(list)
    for length, symbol, number, bid, offer in struct.iter_unpack(RESULT, receiver.data):
        assert (length, bid, offer) == (24, 10.0, 11.0)
        reported[symbol.decode()].append(number)
    assert reported == {symbol: list(range(10)) for symbol in wide}


def test_windows_of_messages_and_then_of_time(run: Start, receiver: Receiver) -> None:
    alerts = run("alerts", out=receiver.port)
    payloads = [f"{user} {amount}".encode() for amount in (30, 40, 50, 1, 2, 3, 100, 1, 1) for user in ("ann", "bob")]
    with alerts.sender() as connection:
        connection.sendall(b"".join(struct.pack(">H", len(payload)) + payload for payload in payloads))
        # Timers close the time windows. Both alerts of a user may be in one window, or in two consecutive ones.
        wait_until(lambda: sum(int(line.split()[1]) for line in receiver.lines()) == 2 * (120 + 102))
    assert alerts.end() == 0
    assert {line.split()[0] for line in receiver.lines()} == {"ann", "bob"}


def test_a_generator_is_a_source(run: Start, receiver: Receiver) -> None:
    generated = run("generated", inputs=0, workers=2, out=receiver.port)
    generated.wait_for("source 'numbers' has ended")
    receiver.wait_lines(200)
    assert generated.end() == 0
    odd, even = list(range(1, 201, 2)), list(range(2, 201, 2))
    wanted = [f"odd {sum(odd[:n])}" for n in range(1, 101)], [f"even {sum(even[:n])}" for n in range(1, 101)]
    assert [[line for line in receiver.lines() if line.startswith(word)] for word in ("odd", "even")] == list(wanted)


def test_an_application_of_classes_leaves_nothing_on_a_configured_server(
    run: Start, receiver: Receiver, redis_url: str
) -> None:
    older = run("older_classes", workers=2, out=receiver.port, REDIS_URL=redis_url)
    with older.sender() as connection:
        connection.sendall(framed(*(vote(letter) for _ in range(200) for letter in "AbCd")))
        receiver.wait_bytes(13 * 1600)
    assert older.end() == 0
    assert totals(receiver.data) == {key: [n for n in range(1, 201) for _ in range(2)] for key in "abcd"}
    with redis.Redis.from_url(redis_url) as client:
        assert [key for key in client.scan_iter("*wallaroo-*") if not key.startswith(b"_kombu")] == []


def test_an_application_whose_setup_fails_exits_with_2(run: Start) -> None:
    failing = run("word_count", inputs=0)
    assert failing.wait() == 2
    assert "application_setup of 'word_count' failed" in failing.log()
    assert "the application needs --in" in failing.log()


def test_an_input_address_in_use_ends_the_run(run: Start, receiver: Receiver) -> None:
    busy = run("reverse", "--in", f"127.0.0.1:{receiver.port}", inputs=0)
    assert busy.wait() == 1
    assert f"cannot listen on 127.0.0.1:{receiver.port}" in busy.log()
    assert "source 'reverse source' cannot be started" in busy.log()
