"""Two workers that share four partitions, and a client with their handles, signatures and results."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from celery import Celery
from celery.canvas import Signature

from celery_partitions import install
from celery_partitions.runtime.installation import Installation
from celery_partitions.runtime.registry import installation_of
from celery_partitions_config.celeryconfig import celery_options
from tests.fundamentals.conftest import ENV
from tests.fundamentals.live import LiveGroup
from tests.producer.conftest import forget
from tests.results import application
from tests.support.server import RedisServer
from tests.support.wait import wait_until

#: A queue that the app does not name, but to which follow-ups are allowed.
APART = "apart"


class Client:
    """One group, and the names of `application`'s plain tasks as signatures of its app."""

    def __init__(self, live: LiveGroup, app: Celery) -> None:
        self.live, self.app = live, app
        self.installation = cast(Installation, installation_of(app))

    def start_worker(self, *arguments: str, module: str = application.__name__, **env: object) -> Any:
        return self.live.start_worker(*arguments, module=module, **env)

    def sig(self, name: str, *args: Any, **options: Any) -> Signature:
        return self.app.signature(f"results.{name}", args=args, **options)

    def ran(self, start: str = "") -> list[str]:
        lines = [line.decode() for line in self.live.client.lrange(application.RAN, 0, -1)]
        return [line for line in lines if line.startswith(start)]

    def listen(self, task_id: str, seconds: float = 60.0) -> Callable[[int], list[dict[str, Any]]]:
        """Subscribe to the notifications about a message. Returns a function that waits for the first `count` of them."""
        pubsub = self.live.client.pubsub(ignore_subscribe_messages=True)
        pubsub.subscribe(f"celery-task-meta-{task_id}")
        received: list[dict[str, Any]] = []

        def first(count: int) -> list[dict[str, Any]]:
            def enough() -> bool:
                message = pubsub.get_message(timeout=0.05)
                if message is not None:
                    received.append(self.app.backend.decode(message["data"]))
                return len(received) >= count

            wait_until(enough, seconds, message=f"received only {received}")
            pubsub.close()
            return received

        return first

    def meta(self, task_id: str) -> dict[str, Any]:
        return self.app.backend.get_task_meta(task_id, cache=False)  # type: ignore[no-any-return]


@contextmanager
def connected(live: LiveGroup) -> Iterator[Client]:
    app = Celery("client", set_as_current=False)
    app.config_from_object(celery_options(live.settings))
    install(app, live.settings)
    try:
        yield Client(live, app)
    finally:
        with warnings.catch_warnings():
            # Celery's results of groups leave a subscription's socket to the garbage collector.
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()  # an unread result unsubscribes when it is collected, and needs its server then
        forget(app)


@pytest.fixture(scope="package")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveGroup]:
    with RedisServer() as server, LiveGroup(server.url(), tmp_path_factory.mktemp("results"), **ENV) as live:
        workers = [live.start_worker(module=application.__name__, PARTITIONS_FOLLOW_UP_QUEUES=APART) for _ in range(2)]
        for worker in workers:
            worker.wait_ready()
        live.wait_owned(by=2)
        yield live
        live.print_logs()


@pytest.fixture
def here(shared: LiveGroup) -> Iterator[Client]:
    shared.client.delete(application.RAN)
    with connected(shared) as client:
        yield client


@pytest.fixture
def make_client(redis_url: str, tmp_path: Path) -> Iterator[Callable[..., Client]]:
    """Create groups whose workers the test itself starts and stops."""
    made: list[LiveGroup] = []
    with ExitStack() as stack:

        def make(url: str = redis_url, **env: object) -> Client:
            live = stack.enter_context(LiveGroup(url, tmp_path, **{**ENV, **env}))
            made.append(live)
            return stack.enter_context(connected(live))

        yield make
    for live in made:
        live.print_logs()
