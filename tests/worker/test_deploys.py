"""The guide's steps, with workers of two versions of the code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery_partitions.model.keys import partition_of
from tests.fundamentals.live import LiveGroup
from tests.support.wait import wait_until
from tests.support.worker import ROOT

HEAD = """
from celery_partitions import app, key_extractor, migrates, state, state_computation

@key_extractor
def first(message: list) -> str:
    return message[0]
"""
OLD = """
class Account:
    def __init__(self):
        self.price = 0.0

@state_computation(name="pay", state=Account, key=first)
def pay(message: list, state: Account) -> None:
    state.price += message[1]
"""
NEW = """
@state(version=2, formerly="deployed.Account")
class Client:
    def __init__(self):
        self.cents, self.notes = 0, []

@migrates(Client, to_version=2)
def to_cents(old):
    return {"cents": round(old["price"] * 100)}

@state_computation(name="pay", state=Client, key=first)
def paid(message: list, state: Client) -> None:
    state.cents += round(message[1] * 100)
"""
KEYS = [f"key-{number}" for number in range(12)]


class Release:
    """A version of the code, in a folder of its own."""

    def __init__(self, live: LiveGroup, folder: Path, code: str) -> None:
        folder.mkdir()
        (folder / "deployed.py").write_text(HEAD + code)
        self.live, self.env = live, {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}

    def start(self, name: str) -> Any:
        return self.live.start_worker("-n", f"{name}@host", module="deployed", **self.env).wait_ready()

    def run(self, *words: str) -> tuple[int, Any]:
        """A command with this code: its exit code, and its JSON."""
        done = subprocess.run(
            [sys.executable, "-m", "celery", "-A", "deployed", "partitions", *words, "--json"],
            env={**os.environ, **self.live.env, **self.env}, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)


def pay(live: LiveGroup, done: int) -> None:
    """Send 1.5 to each key, and wait until all is applied."""
    for key in KEYS:
        live.app.send_task("pay", args=[[key, 1.5]], queue=f"partition.{partition_of(key, 4)}")
    wait_until(lambda: live.processed() == done)


def test_a_class_is_renamed_and_its_content_changed(make_live: Callable[..., LiveGroup], tmp_path: Path) -> None:
    live = make_live(PARTITIONS=4, PARTITIONS_LEASE_SECONDS=2)
    old, new = Release(live, tmp_path / "old", OLD), Release(live, tmp_path / "new", NEW)
    first = old.start("old")
    pay(live, len(KEYS))

    code, found = new.run("migrate", "--check")
    (one,) = found["computations"]
    assert (code, one["versions"], one["outdated"], one["failed"]) == (0, {"1": 12}, 12, 0)

    second = new.start("new")
    live.wait_owned(by=2)
    pay(live, 2 * len(KEYS))
    code, found = new.run("versions", "--exit-code")
    assert code == 1 and any("older code still runs on old@host" in text for text in found["waits"])

    # A roll back: the old worker gets none of the partitions that have newer states.
    written = {queue for queue, owner in live.owners().items() if owner == "new@host" and queue != "partition"}
    second.terminate()
    second.wait()
    wait_until(lambda: all(live.status()[queue].refused_to == ("old@host",) for queue in written))
    assert not written & {queue for queue, owner in live.owners().items() if owner}
    assert "this worker may not have partition" in first.log() and "finish the deploy, or stop this worker" in first.log()

    new.start("newer")
    live.wait_owned(by=2)
    first.terminate()
    first.wait()
    live.wait_owned(by=1)
    pay(live, 3 * len(KEYS))
    code, found = new.run("migrate", "--apply", "--yes")
    (one,) = found["computations"]
    assert (code, one["failed"], one["states"]) == (0, 0, 12)
    assert new.run("versions", "--exit-code") == (0, new.run("versions")[1])
    assert {new.run("state", "pay", key)[1]["state"]["cents"] for key in KEYS[:2]} == {450}
    assert live.dead_letters() == []
