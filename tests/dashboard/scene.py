"""`make dev SCENE=1`: a group in every kind of trouble that an operator meets, with Flower, until Ctrl-C. Also for screenshots.

The sleeps here make the traffic that is shown; no test waits with them.
"""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from celery_partitions.admin.pause import pause
from celery_partitions.producer.bulk import send_many
from tests.dashboard.trouble import hold, make_dead_letters
from tests.fundamentals.live import LiveGroup
from tests.support.applications import deliveries
from tests.support.applications.accounts import Payment, deliver, pay
from tests.support.applications.deliveries import Order, orders
from tests.support.environment import clear_environment
from tests.support.flower import FlowerProcess
from tests.support.server import RedisServer

LOGIN = "operator:secret"
PARTITIONS = 16
KINDS = ("the bank is closed", "no such account", "amount too large", "currency unknown", "duplicate booking")
#: A worker is killed and replaced this often.
KILL_SECONDS = 60.0


@contextmanager
def scene(directory: Path, *, keys: int = 20_000, kill: bool = True) -> Iterator[tuple[LiveGroup, FlowerProcess]]:
    """Three workers, one of which dies each minute; a hot key; held keys; dead letters of several kinds; a paused partition."""
    with RedisServer() as server, LiveGroup(server.url(), directory, PARTITIONS=PARTITIONS, PARTITIONS_LEASE_SECONDS=5, PARTITIONS_TIMELINE_BYTES=2_000_000, PARTITIONS_EVENTS_PER_SECOND=20) as live:
        for number in range(1, 4):
            live.start_worker("-n", f"worker{number}@shop", module=deliveries.__name__)
        env = {**live.env, "FLOWER_BASIC_AUTH": LOGIN}
        with FlowerProcess(deliveries.__name__, directory=directory, env=env) as flower:
            live.wait_owned(by=3)
            flower.wait_ready()
            live.send(pay, [Payment(f"customer-{number}", number % 90) for number in range(keys)])
            for number, kind in enumerate(KINDS):
                make_dead_letters(live, *(f"{kind.split()[-1]}-{one}" for one in range(3 + 4 * number)), text=kind)
            for key in ("erin", "<script>alert(1)</script>", "Ωmega"):
                hold(live, key, "the courier does not answer")
            live.send(pay, [Payment("alice", 120, "rent"), Payment("alice", -15, "bread and milk")])
            pause(live.client, live.names, ["7"], by="eve@laptop")
            ended = threading.Event()
            traffic = threading.Thread(target=_flow, args=(live, ended, kill), daemon=True)
            traffic.start()
            try:
                yield live, flower
            finally:
                ended.set()
                traffic.join()


def _flow(live: LiveGroup, ended: threading.Event, kill: bool) -> None:
    choose, number, killed = random.Random(5), 3, time.monotonic()
    while not ended.wait(0.5):
        payments = [Payment(f"customer-{choose.randrange(20_000)}", choose.randrange(1, 200)) for _ in range(choose.randrange(50, 400))]
        live.send(pay, payments + [Payment("hot", 1) for _ in range(200)])
        live.send(deliver, [Payment("erin", 1)])
        send_many(live.installation, orders._receiver(), [Order(f"customer-{choose.randrange(500)}", choose.choice(("tea", "salt", "bread"))) for _ in range(100)], progress=False)
        if kill and time.monotonic() - killed > KILL_SECONDS:
            killed, number = time.monotonic(), number + 1
            choose.choice([worker for worker in live.workers if worker.running]).kill()
            live.start_worker("-n", f"worker{number}@shop", module=deliveries.__name__)


def main() -> None:
    clear_environment()
    with tempfile.TemporaryDirectory(prefix="scene-") as directory, scene(Path(directory)) as (_, flower):
        print(f"http://{LOGIN}@127.0.0.1:{flower.port}/partitions (Ctrl-C ends it)", flush=True)
        with suppress(KeyboardInterrupt):
            while True:
                time.sleep(1)


if __name__ == "__main__":
    main()
