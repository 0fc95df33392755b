"""Messages that computations send: each act sends one to another computation, and an ordinary task to a queue that nobody reads."""

from __future__ import annotations

import asyncio
import base64
import json
from zlib import crc32

from celery_partitions import Context, state_computation
from tests.chaos.acts import GIVE_UP, Act, History, act_key, act_out, do
from tests.faults.engines import app

#: The prefix of the key to which the other computation's message goes.
HEARD = "heard "
#: The queue of the ordinary tasks.
TOLD = "told"


@app.task(name="told", ignore_result=True)
def told(key: str, number: int) -> None: ...


@state_computation(name="hear", state=History, key=act_key)
def hear(act: Act, state: History) -> None:
    state.numbers.append(act.number)


def send(act: Act) -> None:
    """What an act sends before it fails must not be sent."""
    told.apply_async((act.key, act.number), queue=TOLD)
    hear.delay(Act(HEARD + act.key, act.number))


@state_computation(name="tell", state=History, key=act_key, on_error=GIVE_UP)
def tell(act: Act, state: History, context: Context) -> None:
    send(act)
    act_out(act, state, context)


@state_computation(name="tell async", state=History, key=act_key, on_error=GIVE_UP)
async def tell_async(act: Act, state: History, context: Context) -> None:
    send(act)
    await asyncio.sleep(act.seconds)
    do(act, state, context)


@state_computation(name="tell in threads", state=History, key=act_key, on_error=GIVE_UP, executor="threads", concurrency=8)
def tell_in_threads(act: Act, state: History, context: Context) -> None:
    send(act)
    act_out(act, state, context)


TELLERS = (tell, tell_async, tell_in_threads)


def teller_of(key: str) -> str:
    """The computation to which a key's messages are sent."""
    return TELLERS[crc32(key.encode()) % len(TELLERS)].name


def read_told(raw: bytes) -> tuple[str, tuple[str, int]]:
    """The id of an ordinary task, and what it was told: key and number."""
    message = json.loads(raw)
    key, number = json.loads(base64.b64decode(message["body"]))[0]
    return message["headers"]["id"], (key, number)
