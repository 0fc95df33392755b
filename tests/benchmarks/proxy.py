"""A TCP proxy process that delays what the client sends: `python -m tests.benchmarks.proxy`.

Bandwidth is not limited and pipelined data stays pipelined: every chunk is forwarded after the delay, so that each round
trip takes longer by the delay. It uses threads, because asyncio's timers round up to a millisecond.
Prints its port.
"""

from __future__ import annotations

import argparse
import contextlib
import queue
import socket
import threading
import time

#: The size of one read. A batch of messages needs a few.
CHUNK_BYTES = 1 << 20

#: (when the chunk is due, the chunk)
Waiting = queue.SimpleQueue[tuple[float, bytes]]


def copy(source: socket.socket, target: socket.socket) -> None:
    """Forward every chunk at once, until the source closes."""
    try:
        while chunk := source.recv(CHUNK_BYTES):
            target.sendall(chunk)
    except OSError:
        pass
    finally:
        close(target)


def copy_delayed(source: socket.socket, target: socket.socket, delay_seconds: float) -> None:
    """Forward each chunk after the delay, while the next ones are already read."""
    waiting: Waiting = queue.SimpleQueue()
    threading.Thread(target=read_into, args=(source, waiting, delay_seconds), daemon=True).start()
    try:
        while True:
            due, chunk = waiting.get()
            if not chunk:
                break
            time.sleep(max(0.0, due - time.monotonic()))
            target.sendall(chunk)
    except OSError:
        pass
    finally:
        close(target)


def read_into(source: socket.socket, waiting: Waiting, delay_seconds: float) -> None:
    """Read chunks and record when each is due. An empty chunk is the end."""
    chunk = b"first"
    while chunk:
        try:
            chunk = source.recv(CHUNK_BYTES)
        except OSError:
            chunk = b""
        waiting.put((time.monotonic() + delay_seconds, chunk))


def close(connection: socket.socket) -> None:
    """Close both directions, so that the other thread also wakes up."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--to-port", type=int, required=True)
    parser.add_argument("--delay-seconds", type=float, required=True)
    options = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            client, _ = listener.accept()
            server = socket.create_connection(("127.0.0.1", options.to_port))
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=copy, args=(server, client), daemon=True).start()
            threading.Thread(
                target=copy_delayed, args=(client, server, options.delay_seconds), daemon=True
            ).start()


if __name__ == "__main__":
    main()
