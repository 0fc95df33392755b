"""In a process of an installed app kombu never consumes a partition's queue, whatever requests it."""

from __future__ import annotations

import pytest
from celery import Celery
from celery.worker import control
from kombu import Queue

from celery_partitions.store.names import Names
from celery_partitions.worker.queue_guard import keep_kombu_away
from tests.fundamentals.live import LiveGroup
from tests.support.wait import wait_until
from tests.worker import foreign


def consumed(live: LiveGroup) -> list[str]:
    """The queues that the only worker consumes through kombu. It owns no partitions."""
    (queues,) = live.app.control.inspect(timeout=60, limit=1).active_queues().values()
    return sorted(queue["name"] for queue in queues)


def wait_listening(live: LiveGroup) -> None:
    """A broadcast is lost while nobody has subscribed, and a worker is ready a moment before it has."""
    wait_until(lambda: live.app.control.ping(timeout=1, limit=1))


def test_queues_that_the_app_declares(live: LiveGroup) -> None:
    everything = "celery,partition,partition.0,partition.3,partition.sink.x,emails"
    worker = live.start_worker("-c", "1", module=foreign.__name__, TASK_QUEUES=everything).wait_ready()
    wait_listening(live)
    assert "partition.0" not in worker.log()
    assert consumed(live) == ["celery", "emails"]


def test_queues_that_remote_control_adds(live: LiveGroup) -> None:
    worker = live.start_worker("-c", "1", module=foreign.__name__).wait_ready()
    wait_listening(live)
    live.send_task("total", 2)
    before = [row.length for row in live.status().values()]
    for queue in ("partition.0", "partition"):
        ((answer,),) = [one.values() for one in live.app.control.add_consumer(queue, reply=True, timeout=60, limit=1)]
        assert answer == {
            "error": f"Celery does not consume {queue}, because that breaks the order of its messages. "
            f"Start a partition worker: celery -A APP worker -Q {queue}"
        }
    ((answer,),) = [one.values() for one in live.app.control.add_consumer("emails", reply=True, timeout=60, limit=1)]
    assert answer == {"ok": "add consumer emails"}
    assert live.app.send_task("add", args=[2, 3], queue="emails").get(timeout=60) == 5
    assert consumed(live) == ["celery", "emails"]
    assert [row.length for row in live.status().values()] == before
    assert worker.running


def test_queues_that_a_program_adds(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    app = Celery("shop", broker="memory://", set_as_current=False)
    monkeypatch.setitem(control.Panel.data, "add_consumer", control.Panel.data["add_consumer"])
    keep_kombu_away(app, Names("partition").is_for_partition_workers)
    ours, other = Queue("partition.1"), Queue("emails")
    with app.connection() as connection:
        consumer = app.amqp.TaskConsumer(connection, queues=[ours, other])
        consumer.add_queue(ours)
        consumer.add_queue(Queue("letters"))
        consumer.consume()
        assert [consumer.consuming_from(name) for name in ("partition.1", "emails", "letters")] == [False, True, True]
        consumer.revive(connection.channel())
        assert not consumer.consuming_from(ours)
    assert "Celery does not consume partition.1" in caplog.text
    app.close()
