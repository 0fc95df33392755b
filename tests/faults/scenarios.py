"""Faults that are tested twice: on the real engine, and on engines that are broken on purpose.

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

#: Occurs in a commit that applied messages, and not in a peek.
COMMIT = b"HINCRBY"


def steady_work(live: LiveGroup, engine: Engine) -> None:
    """No fault."""
    traffic = Traffic(live)
    live.start_worker(module=engines.__name__, **engine)
    traffic.send(200)
    traffic.check()


def lost_replies(live: LiveGroup, proxy: Proxy, engine: Engine) -> None:
    """`live` connects to the server. Its worker connects through the proxy, which loses the replies to three commits."""
    traffic = Traffic(live)
    live.start_worker(module=engines.__name__, REDIS_URL=proxy.url(), **engine).wait_ready()
    faults = []
    for _ in range(3):
        faults.append(proxy.cut_before_reply(COMMIT))
        traffic.send(200)
        wait_until(lambda: faults[-1].fired, message="no commit was lost")
    traffic.check()


def overtaken(live: LiveGroup, engine: Engine) -> None:
    """A worker is suspended during its batch. It resumes and commits while the next owner runs the same batch.

    One partition. The first worker commits after each message, the second after all three. Their commits have the same
    commit number but take different messages. With `PARTITIONS_MAX_WORKER_CRASHES=0` the second worker does not isolate messages.
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
    """A worker is suspended past its lease. Another worker changes the states and leaves. The first one owns the partition again."""
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
    second.wait()
    first.continue_process()
    traffic.send(64)
    traffic.check()
