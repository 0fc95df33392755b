"""Faults that are judged twice: on the engine as it is, and on engines that are broken on purpose.

`engine` is the environment of the workers: `{}`, or `{"BROKEN_ENGINE": …}` of `tests.faults.engines`.
"""

from __future__ import annotations

from collections.abc import Mapping

from tests.faults import engines
from tests.faults.traffic import Traffic
from tests.fundamentals.application import Deed, witness
from tests.fundamentals.live import LiveGroup
from tests.support.history import check_history
from tests.support.proxy import Proxy
from tests.support.wait import wait_until

Engine = Mapping[str, str]
SOUND: Engine = {}

#: Stands in a commit that applied messages, and in no peek.
COMMIT = b"HINCRBY"


def steady_work(live: LiveGroup, engine: Engine) -> None:
    """No fault at all."""
    traffic = Traffic(live)
    live.start_worker(module=engines.__name__, **engine)
    traffic.send(200)
    traffic.check()


def lost_replies(live: LiveGroup, proxy: Proxy, engine: Engine) -> None:
    """`live` goes to the server; its worker goes through the proxy, which loses the replies to three commits."""
    traffic = Traffic(live)
    live.start_worker(module=engines.__name__, REDIS_URL=proxy.url(), **engine).wait_ready()
    faults = []
    for _ in range(3):
        faults.append(proxy.cut_before_reply(COMMIT))
        traffic.send(200)
        wait_until(lambda: faults[-1].fired, message="no commit was lost")
    traffic.check()


def overtaken(live: LiveGroup, engine: Engine) -> None:
    """A worker stands still in its batch; the next owner is in the same batch when the first goes on and commits.

    One partition. The first worker commits after each message, the second after all three, so that the positions of
    their commits are the same and what they took is not. `PARTITIONS_MAX_WORKER_CRASHES=0`: the second does not run them one by one.
    """
    first = live.start_worker(module=engines.__name__, PARTITIONS_BATCH_SECONDS=0.001, PARTITIONS_MAX_WORKER_CRASHES=0, **engine).wait_ready()
    live.wait_owned(by=1)
    live.send(witness, [Deed("key", number, seconds=1.0) for number in range(3)])
    live.wait_witnessed(f"{first.pid}:0")
    first.stop_process()
    second = live.start_worker(module=engines.__name__, PARTITIONS_BATCH_SECONDS=60, PARTITIONS_MAX_WORKER_CRASHES=0, **engine)
    live.wait_witnessed(f"{second.pid}:1")
    first.continue_process()
    live.wait_drained()
    check_history({"key": range(3)}, live.numbers(witness))


def lost_and_held_again(live: LiveGroup, engine: Engine) -> None:
    """A worker stands still past its lease; another changes the states and leaves; the first holds the partition again."""
    traffic = Traffic(live)
    first = live.start_worker(module=engines.__name__, **engine).wait_ready()
    live.wait_owned(by=1)
    traffic.send(64)
    live.wait_drained()
    first.stop_process()
    second = live.start_worker(module=engines.__name__, **engine)
    traffic.send(64)
    traffic.wait_processed(128)
    second.terminate()
    second.wait(timeout=30)
    first.continue_process()
    traffic.send(64)
    traffic.check()
