"""The users of the Redis guide: each can do its work, and nothing else. Tested with a whole worker."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.fundamentals.application import Step, record
from tests.fundamentals.live import LiveGroup
from tests.support.flower import FlowerProcess
from tests.support.server import RedisServer
from tests.support.wait import wait_until
from tests.support.worker import ROOT

GUIDE = (ROOT / "tasks/store/README.md").read_text()
(ACL,) = re.findall(r"```acl\n(.*?)```", GUIDE, re.DOTALL)


class Server:
    """A server with the guide's users and no others."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.admin = server.client()
        for line in ACL.splitlines():
            word, name, *rules = line.split()
            assert word == "user"
            self.admin.execute_command("ACL", "SETUSER", name, "reset", *rules)

    def url(self, user: str) -> str:
        return f"redis://{user}:{user}-password@{self.server.host}:{self.server.port}/0"

    def client(self, user: str) -> redis.Redis:
        return redis.Redis.from_url(self.url(user))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with RedisServer() as running:
        made = Server(running)
        yield made
        made.admin.close()


@pytest.fixture(scope="module")
def live(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveGroup]:
    """A worker that connects as the user `worker`. This process connects as the same user."""
    with LiveGroup(server.url("worker"), tmp_path_factory.mktemp("acl"), PARTITIONS=2) as live:
        live.start_workers(1)
        yield live
        live.print_logs()


def as_user(server: Server, user: str, code: str, **env: str) -> str:
    """Run code in its own process as this user. The application is already imported."""
    environment = {**os.environ, "REDIS_URL": server.url(user), "PARTITIONS": "2", "PYTHONPATH": str(ROOT), **env}
    code = "from tests.fundamentals.application import *\n" + code
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_worker_serves_its_partitions_plain_tasks_and_remote_control(live: LiveGroup) -> None:
    live.send(record, [Step("worked", 1)])
    live.send_task("record", {"key": "worked", "number": 2}, queue="partition")
    wait_until(lambda: live.numbers_of(record, "worked") == [1, 2])
    assert len(live.app.control.ping(timeout=60, limit=1)) == 1
    message = live.send_task("no such task", 1, queue="partition.1")
    assert live.group.dead_letters.discard([live.dead_letter_of(message)]) == 1
    second = live.start_worker().wait_ready()
    live.wait_owned(by=2)
    second.terminate()
    assert second.wait() == 0
    live.wait_owned(by=1)
    assert "NoPermissionError" not in "".join(worker.log() for worker in live.workers)


def test_any_client_that_may_push_is_a_producer(live: LiveGroup, server: Server) -> None:
    as_user(server, "producer", "record.send_many([Step('pushed', 1), Step('pushed', 2)])")
    live.send_task("record", {"key": "pushed", "number": 3})
    wait_until(lambda: live.numbers_of(record, "pushed") == [1, 2, 3])


def test_a_limit_on_queues_needs_the_right_to_read_their_length(live: LiveGroup, server: Server) -> None:
    code = "record.send_many([Step('limited', 1)])"
    server.admin.execute_command("ACL", "SETUSER", "producer", "+llen")
    try:
        as_user(server, "producer", code, PARTITIONS_QUEUE_MAX_LENGTH="1000")
    finally:
        server.admin.execute_command("ACL", "SETUSER", "producer", "-llen")
    wait_until(lambda: live.numbers_of(record, "limited") == [1])


def test_celerys_producer_needs_a_few_more_rights(live: LiveGroup, server: Server) -> None:
    code = "record.delay(Step('sent', 1)); app.send_task('record', args=[{'key': 'sent', 'number': 2}], ignore_result=True)"
    as_user(server, "celery-producer", code)
    wait_until(lambda: live.numbers_of(record, "sent") == [1, 2])


def test_the_commands_that_only_show_data_work_for_a_reader(live: LiveGroup, server: Server, tmp_path: Path) -> None:
    live.send(record, [Step("seen", 1)])
    wait_until(lambda: live.numbers_of(record, "seen") == [1])
    with LiveGroup(server.url("reader"), tmp_path, PARTITIONS=2) as reader:
        assert reader.numbers_of(record, "seen") == [1]
        assert None not in reader.owners().values()
        assert reader.dead_letters() == []
    assert "seen" in as_user(server, "reader", "print(*record.keys())")


def refused(client: redis.Redis, *command: Any) -> None:
    with pytest.raises(redis.exceptions.NoPermissionError):
        client.execute_command(*command)


#: Commands on the group's keys that only a worker may run.
READS = [("LRANGE", "partition.0", 0, -1), ("HGETALL", "{partition.0}:state:record"), ("HGET", "{partition}:group", "partitions")]
WRITES = [
    ("HSET", "{partition.0}:state:record", "key", "forged"),
    ("HSET", "{partition}:owners", "0", "me"),
    ("HINCRBY", "{partition.0}:meta", "token", 1),
    ("HDEL", "{partition.0}:dead", "x"),
    ("LPUSH", "{partition.0}:mailbox:key", "x"),
    ("RPUSH", "partition.0", "in front"),
    ("LTRIM", "partition.0", 1, 0),
    ("RPOP", "partition.0"),
    ("DEL", "partition.0"),
    ("PUBLISH", "{partition}:changed", ""),
    ("EVAL", "return redis.call('DEL', 'partition.0')", 1, "partition.0"),
]
RUIN = [("FLUSHALL",), ("CONFIG", "SET", "maxmemory", "1"), ("SHUTDOWN", "NOSAVE"), ("ACL", "LIST"), ("KEYS", "*")]


@pytest.mark.parametrize("user", ["producer", "celery-producer"])
def test_a_producer_can_do_nothing_else(server: Server, user: str) -> None:
    with server.client(user) as client:
        for command in [*READS, *WRITES, *RUIN, ("LPUSH", "elsewhere", "x"), ("SUBSCRIBE", "{partition}:changed")]:
            refused(client, *command)


@pytest.mark.parametrize("user", ["reader", "dashboard"])
def test_a_reader_cannot_change_states(server: Server, user: str) -> None:
    with server.client(user) as client:
        for command in [*WRITES, *RUIN, ("GET", "elsewhere")]:
            refused(client, *command)


@pytest.mark.parametrize("user", ["reader", "dashboard"])
def test_a_reader_cannot_run_scripts(server: Server, user: str) -> None:
    """A script that never ends would block the server for everyone."""
    endless = "while true do end"
    with server.client(user) as client:
        for command in [
            ("EVAL", endless, 0),
            ("EVAL_RO", endless, 0),
            ("SCRIPT", "LOAD", endless),
            ("FUNCTION", "LOAD", "#!lua name=x\n" + endless),
            ("FCALL", "x", 0),
        ]:
            refused(client, *command)


@pytest.mark.parametrize("user", ["producer", "celery-producer", "worker", "reader", "dashboard"])
def test_no_user_can_select_another_database(server: Server, user: str) -> None:
    with server.client(user) as client:
        refused(client, "SELECT", 1)
        refused(client, "SWAPDB", 0, 1)


def test_a_worker_cannot_damage_the_server_or_read_other_keys(server: Server) -> None:
    with server.client("worker") as client:
        for command in [*RUIN, ("GET", "elsewhere"), ("SET", "elsewhere", 1), ("PUBLISH", "elsewhere", "")]:
            refused(client, *command)


def test_flower_runs_as_the_dashboard(live: LiveGroup, server: Server, tmp_path: Path) -> None:
    env = {"REDIS_URL": server.url("dashboard"), "PARTITIONS": "2", "FLOWER_BASIC_AUTH": "me:secret"}
    with FlowerProcess("tests.fundamentals.application", directory=tmp_path, env=env) as flower:
        flower.wait_ready()
        status, found = flower.get("/api/workers?refresh=1", login="me:secret")
        assert (status, set(json.loads(found))) == (200, set(live.owners().values()))
        queues = json.loads(found)[next(iter(json.loads(found)))]["active_queues"]
        assert {"partition.0", "partition.1", "partition"} <= {queue["name"] for queue in queues}
        # The number of messages in each queue, read from Redis itself.
        status, found = flower.get("/api/queues/length", login="me:secret")
        assert status == 200 and {"name": "partition.0", "messages": 0} in json.loads(found)["active_queues"]
        assert "No permissions" not in flower.log()
        # The partitions are shown, but actions are refused.
        status, found = flower.get("/api/partitions", login="me:secret")
        assert status == 200 and [row["partition"] for row in json.loads(found)["partitions"]] == ["0", "1", "ingress"]
        for path in ("/partition/0", "/partitions/key?key=a", "/partitions/dead-letters"):
            assert flower.get(path, login="me:secret")[0] == 200, path
