"""The TCP peer: sends framed trades to a source, and reads lines from a sink. Prints one line of JSON.

Measures from the first byte sent to the last line received, and checks the lines of each symbol against what was sent, in order.
"""

from __future__ import annotations

import argparse
import json
import socket
import struct
import threading
import time
from collections import defaultdict

from trades import trades

#: Longer than the start of both processes.
CONNECT_SECONDS = 60


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--to", type=int, required=True)
    parser.add_argument("--listen", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--keys", type=int, required=True)
    options = parser.parse_args()
    sent = [f"{trade.symbol} {trade.price}" for trade in trades(options.count, options.keys)]
    frames = b"".join(struct.pack(">I", len(line)) + line.encode() for line in sent)
    with socket.create_server(("127.0.0.1", options.listen)) as listener, connected(options.to) as outgoing:
        incoming, _ = listener.accept()
        began = time.monotonic()
        sender = threading.Thread(target=outgoing.sendall, args=(frames,))
        sender.start()
        received = incoming.makefile("rb")
        lines = [next(received).decode().rstrip("\n") for _ in sent]
        seconds = time.monotonic() - began
        sender.join()
    print(json.dumps({"rate": len(sent) / seconds, "wrong": wrong(sent, lines)}))


def connected(port: int) -> socket.socket:
    until = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def wrong(sent: list[str], received: list[str]) -> int:
    """The number of symbols whose lines are not what was sent, in order."""
    wanted, seen = by_symbol(sent), by_symbol(received)
    return sum(wanted[symbol] != seen.get(symbol) for symbol in wanted)


def by_symbol(lines: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for line in lines:
        found[line.partition(" ")[0]].append(line)
    return found


if __name__ == "__main__":
    main()
