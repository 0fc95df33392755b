"""`python -m tests.dashboard`: take the README's screenshots of a small working group into `tests/dashboard/screenshots/`.

The sleeps here make the traffic that is shown; no test waits with them.
"""

from __future__ import annotations

import os
import random
import subprocess
import tempfile
import time
from pathlib import Path

from celery_partitions.producer.bulk import send_many
from tests.dashboard.conftest import LOGIN
from tests.dashboard.trouble import hold, make_dead_letters
from tests.fundamentals.live import LiveGroup
from tests.support.applications import deliveries
from tests.support.applications.accounts import Payment, pay
from tests.support.applications.deliveries import Order, orders
from tests.support.browser import PHONE, Visit, chromium_path, running_chromium
from tests.support.environment import clear_environment
from tests.support.flower import FlowerProcess
from tests.support.python_process import start_python
from tests.support.server import RedisServer
from tests.support.worker import ROOT

SCREENSHOTS = Path(__file__).parent / "screenshots"
#: Long enough for the charts to show something.
FLOW_SECONDS = 100
CUSTOMERS = ("alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi")
SIZE = {"width": 1280, "height": 860}


def main() -> None:
    clear_environment()
    path = chromium_path()
    if path is None:
        raise SystemExit("no Chromium is installed (on Debian: apt-get install --no-install-recommends chromium)")
    directory = Path(tempfile.mkdtemp(prefix="screenshots-"))
    with RedisServer() as server, LiveGroup(server.url(), directory, PARTITIONS=4, PARTITIONS_LEASE_SECONDS=10, PARTITIONS_TIMELINE_BYTES=1_000_000, PARTITIONS_EVENTS_PER_SECOND=20) as live:
        for number in (1, 2):
            live.start_worker("-n", f"worker{number}@shop", module=deliveries.__name__)
        env = {**live.env, "FLOWER_BASIC_AUTH": LOGIN}
        words = ("-A", deliveries.__name__, "partitions", "sink", "warehouse")
        environment = {**os.environ, **live.env, "PYTHONPATH": str(ROOT)}
        sink = start_python("celery", *words, directory=directory, environment=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with FlowerProcess(deliveries.__name__, directory=directory, env=env) as flower, running_chromium(path) as chromium:
            live.wait_owned(by=2)
            base = f"http://127.0.0.1:{flower.wait_ready().port}"
            overview = Visit(chromium, base, login=LOGIN, size=SIZE)
            overview.open("/partitions")
            flow(live)
            take(overview, "partitions")
            for name, address in (("key", "/partitions/key?key=alice"), ("dead-letters", "/partitions/dead-letters")):
                one = Visit(chromium, base, login=LOGIN, size=SIZE)
                one.open(address)
                take(one, name)
            drawn = Visit(chromium, base, login=LOGIN, size=SIZE)
            drawn.open("/partitions/computations")
            take(drawn, "pipeline", "[aria-label='Pipeline shop']")
            phone = Visit(chromium, base, login=LOGIN, size=PHONE)
            phone.open("/partitions")
            phone.page.wait_for_selector("#partition-0")
            take(phone, "phone")
        sink.kill()
        sink.wait()


def flow(live: LiveGroup) -> None:
    """Send payments in waves, with some failures among them."""
    choose, until = random.Random(5), time.monotonic() + FLOW_SECONDS
    make_dead_letters(live, "bob", "carol", "mallory")
    hold(live, "erin")
    for customer in CUSTOMERS[:1]:
        live.send(pay, [Payment(customer, 120, "rent"), Payment(customer, -15, "bread and milk")])
    while (left := until - time.monotonic()) > 0:
        many = int(choose.uniform(20, 120) * (1 + (left % 30) / 10))
        names = [choose.choice(CUSTOMERS[1:]) + f"-{choose.randrange(2000)}" for _ in range(many)]
        live.send(pay, [Payment(name, choose.randrange(1, 200)) for name in names])
        sold = [Order(choose.choice(CUSTOMERS), choose.choice(("tea", "salt", "bread"))) for _ in range(many // 2)]
        send_many(live.installation, orders._receiver(), sold, progress=False)
        time.sleep(0.5)


def take(visit: Visit, name: str, part: str = "") -> None:
    """`part`: a selector. Without one, the window."""
    SCREENSHOTS.mkdir(exist_ok=True)
    path = SCREENSHOTS / f"{name}.png"
    if part:
        visit.page.locator(part).screenshot(path=path, animations="disabled")
    else:
        visit.page.screenshot(path=path, animations="disabled")
    visit.close()
    print(f"{path}: {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
