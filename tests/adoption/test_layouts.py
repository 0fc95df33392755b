"""The wheel in the usual layouts of Celery projects: everything still works, and a computation runs in a real worker."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from tests.adoption.building import INSTALL_SECONDS
from tests.adoption.project import SECONDS, Project
from tests.support.wait import wait_until

pytestmark = pytest.mark.timeout(3 * INSTALL_SECONDS)

Start = Callable[[str], Project]
READY = " ready."


def test_the_tutorials_tasks_module_is_the_users_own(start_project: Start) -> None:
    project = start_project("tutorial")
    worker = project.start("celery -A tasks worker --loglevel=INFO -c 1")
    worker.wait_for(READY)
    assert ". tasks.add" in worker.log()
    add = "from tasks import add; print(add.delay(4, 4).get(timeout=60))"
    assert project.run(f"python -c '{add}'") == "8\n"
    assert "partition" not in worker.log()


def test_the_tutorials_app_gets_partitions(start_project: Start) -> None:
    project = start_project("tutorial")
    project.start("celery -A counters worker --loglevel=INFO -P solo -Q celery,partition").wait_for(READY)
    code = """
import time
from counters import Visit, count_visit
from tasks import add
count_visit.send_many([Visit("home"), Visit("help"), Visit("home")])
assert add.delay(4, 4).get(timeout=60) == 8
while sum(v.count for v in count_visit.states(["home", "help"]).values() if v) < 3: time.sleep(0.05)
print(count_visit.state("home").count)
"""
    assert project.run(f"python -c '{code}'") == "2\n"


def test_a_cookiecutter_django_project(start_project: Start) -> None:
    project = start_project("django")
    assert "2 passed" in project.run("pytest -q")
    project.run("python manage.py migrate")
    plain = project.start("celery -A config.celery_app worker -l INFO -c 1 -n plain@%h")
    partition = project.start("celery -A config.celery_app worker -l INFO -P solo -c 1 -Q partition -n partition@%h")
    plain.wait_for(READY)
    partition.wait_for(READY)
    assert project.run("python try_it.py", DJANGO_SETTINGS_MODULE="config.settings.local") == "3 True\n"
    assert "partition.0" in project.run("celery -A config.celery_app partitions status")


def test_a_flask_application_factory_with_a_context_task(start_project: Start) -> None:
    project = start_project("flask")
    plain = project.start("celery -A make_celery worker -l INFO -c 1 -n plain@%h")
    partition = project.start("celery -A make_celery worker -l INFO -P solo -c 1 -Q partition -n partition@%h")
    plain.wait_for(READY)
    partition.wait_for(READY)
    assert project.run("python try_it.py") == "['5 EUR', '7 EUR']\n"


def test_a_fastapi_service_produces(start_project: Start) -> None:
    project = start_project("fastapi")
    project.start("celery -A prices.worker worker -l INFO -P solo -c 1 -Q partition").wait_for(READY)
    assert project.run("python try_it.py") == "{'price': 192.5, 'count': 2.0}\n"


def test_prefork_workers_and_beat_work_together_with_partition_workers(start_project: Start, client: redis.Redis) -> None:
    project = start_project("prefork")
    plain = project.start("celery -A shop worker -l INFO -c 2 -Q celery,reports -n plain@%h")
    partition = project.start("celery -A shop worker -l INFO -P solo -c 1 -Q partition -n partition@%h")
    plain.wait_for(READY)
    partition.wait_for(READY)
    assert client.get("children") == b"3", "two prefork children, and the process of the solo pool"
    project.run("python -c 'import shop; shop.report.delay(\"monday\")'")
    project.start("celery -A shop beat -l INFO")
    wait_until(lambda: int(client.get("ticks") or 0) >= 2, SECONDS, message="beat's task does not run")
    wait_until(lambda: client.lrange("reports printed", 0, -1) == [b"monday"], SECONDS, message="no report")
    code = """
import shop, time
while (state := shop.accrue.state("savings")) is None or state.total < 2: time.sleep(0.05)
"""
    project.run(f"python -c '{code}'")
    active = project.run("celery -A shop inspect active_queues --json")
    assert '"reports"' in active and '"partition.0"' in active
