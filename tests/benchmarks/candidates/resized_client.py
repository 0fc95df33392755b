"""Fills keys, sends at a constant rate, resizes meanwhile, and prints what it did to the messages as JSON."""

from __future__ import annotations

import argparse
import json
import random
import threading
import time
from collections.abc import Iterator

from resized import Deed, Seen, app, note

from celery_partitions.admin.resize import Resize, read_progress
from celery_partitions.runtime.registry import installation_of

CHUNKS_PER_SECOND = 20
WINDOW_SECONDS = 3.0
PAGE = 1000

parser = argparse.ArgumentParser()
parser.add_argument("--keys", type=int, required=True)
parser.add_argument("--to", type=int, required=True)
parser.add_argument("--rate", type=int, required=True)
asked = parser.parse_args()

installation = installation_of(app)
assert installation is not None
group, before = installation.group, installation.settings.partitions
numbers = [0] * asked.keys
stop = threading.Event()


def deed(key: int, sent: float) -> Deed:
    numbers[key] += 1
    return Deed(key, numbers[key], sent)


def processed() -> int:
    with group.client.pipeline(transaction=False) as pipe:
        for number in range(max(before, asked.to)):
            pipe.hget(group.names.meta(str(number)), "processed")
        return sum(int(one or 0) for one in pipe.execute())


def wait_for(count: int) -> None:
    until = time.monotonic() + 60
    while processed() < count and time.monotonic() < until:
        time.sleep(0.05)


def load() -> None:
    chance, tick = random.Random(1), time.monotonic()
    while not stop.is_set():
        note.send_many((deed(chance.randrange(asked.keys), time.monotonic()) for _ in range(asked.rate // CHUNKS_PER_SECOND)), progress=False)
        tick += 1 / CHUNKS_PER_SECOND
        stop.wait(max(0.0, tick - time.monotonic()))


def rate(seconds: float) -> float:
    began, count = time.monotonic(), processed()
    time.sleep(seconds)
    return (processed() - count) / (time.monotonic() - began)


def states() -> Iterator[Seen]:
    for first in range(0, asked.keys, PAGE):
        page = range(first, min(first + PAGE, asked.keys))
        found = note.states(page)
        yield from (found[str(key)] for key in page)


note.send_many((deed(key, 0.0) for key in range(asked.keys)), progress=False)
wait_for(asked.keys)
sender = threading.Thread(target=load)
sender.start()
time.sleep(1.0)
usual = rate(WINDOW_SECONDS)
began, count = time.monotonic(), processed()
Resize(group.client, group.names, before).begin(asked.to, by="benchmark")
while read_progress(group.client, group.names, before).state == "moving":
    time.sleep(0.02)
seconds = time.monotonic() - began
during = (processed() - count) / seconds
time.sleep(WINDOW_SECONDS)
stop.set()
sender.join()
wait_for(sum(numbers))
found = list(states())
print(json.dumps({
    "seconds": seconds, "usual": usual, "during": during, "longest": max(one.longest for one in found),
    "wrong": sum(one.wrong > 0 or one.number != number for one, number in zip(found, numbers, strict=True)),
}))
