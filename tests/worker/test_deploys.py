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
from celery_partitions import Context, app, key_extractor, migrates, state, state_computation

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

    def states(self, computation: str) -> dict[str, dict[str, Any]]:
        """The attributes of each key's state, as a program with this code reads them."""
        program = f"import deployed, json; print(json.dumps({{key: vars(one) for key, one in deployed.{computation}.states({KEYS}).items()}}))"
        done = subprocess.run([sys.executable, "-c", program], env={**os.environ, **self.live.env, **self.env}, capture_output=True, text=True, check=True, timeout=120)
        found: dict[str, dict[str, Any]] = json.loads(done.stdout)
        return found


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

    third = new.start("newer")
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

    # The computation is removed.
    without = Release(live, tmp_path / "without", "")
    without.start("without")
    third.terminate()
    third.wait()
    live.wait_owned(by=1)
    assert "no running worker knows the computation 'pay', which has 12 states" in without.run("versions")[1]["waits"]
    assert without.run("remove", "pay", "--yes") == (0, {"computation": "pay", "states": 12, "timers": 0})
    assert without.run("versions", "--exit-code")[0] == 0


FEWER_FIELDS = """
from dataclasses import dataclass

@dataclass
class Account:
    price: float = 0.0

@state_computation(name="pay", state=Account, key=first)
def pay(message: list, state: Account) -> None:
    state.price += message[1]
"""
#: With one more field, and no version.
MORE_FIELDS = FEWER_FIELDS.replace("price: float = 0.0", "price: float = 0.0\n    visits: int = 0") + "    state.visits += 1\n"


def test_a_field_is_added_and_the_deploy_rolled_back(make_live: Callable[..., LiveGroup], tmp_path: Path) -> None:
    live = make_live(PARTITIONS=4, PARTITIONS_LEASE_SECONDS=2, PARTITIONS_STATE_SIGNING_KEY="0123456789abcdef0123")
    old, new = Release(live, tmp_path / "old", FEWER_FIELDS), Release(live, tmp_path / "new", MORE_FIELDS)
    running = old.start("old")
    rounds = 0

    def replaced_by(release: Release, name: str) -> None:
        """A rolling deploy, with messages before, in between and after."""
        nonlocal running, rounds
        other = release.start(name)
        live.wait_owned(by=2)
        pay(live, (rounds + 1) * len(KEYS))
        running.terminate()
        running.wait()
        running = other
        live.wait_owned(by=1)
        pay(live, (rounds + 2) * len(KEYS))
        rounds += 2
        assert release.run("versions", "--exit-code")[0] == 0

    pay(live, len(KEYS))
    rounds = 1
    code, found = new.run("migrate", "--check")
    (one,) = found["computations"]
    assert (code, one["states"], one["failed"]) == (0, 12, 0)
    replaced_by(new, "new")
    seen = new.states("pay")
    assert {one["price"] for one in seen.values()} == {4.5} and {one["visits"] for one in seen.values()} == {1, 2}

    # Old code goes on with the states that new code has written. It keeps the field that it does not know.
    replaced_by(old, "again")
    assert {one["price"] for one in old.states("pay").values()} == {7.5}
    replaced_by(new, "newer")
    last = new.states("pay")
    assert {one["price"] for one in last.values()} == {10.5}
    assert all(seen[key]["visits"] < last[key]["visits"] <= seen[key]["visits"] + 3 for key in KEYS)
    assert live.dead_letters() == []


PAYS = """
class Account:
    def __init__(self):
        self.paid, self.reminded = [], 0

@state_computation(name="pay", state=Account, key=first)
def pay(message: list, state: Account, context: Context) -> None:
    state.paid.append(message[1])
    if message[1] == "remind":
        context.timers.set("reminder", after=0)
        context.timers.set("later", after=3600)

@pay.on_timer("reminder")
def remind(timer, state: Account) -> None:
    raise RuntimeError("the old code fails")

@pay.on_timer("later")
def later(timer, state: Account) -> None: ...
"""
#: The computation has a new name, and its class too.
COLLECTS = (
    PAYS.replace('name="pay"', 'name="collect", formerly="pay"').replace("Account", "Client").replace("@pay.", "@collect.").replace("def pay", "def collect")
    .replace("class Client", '@state(formerly="deployed.Account")\nclass Client').replace('raise RuntimeError("the old code fails")', "state.reminded += 1")
)  # fmt: skip
#: The old code again, as it must be to take the states back.
PAYS_AGAIN = PAYS.replace('name="pay"', 'name="pay", formerly="collect"').replace("class Account", '@state(formerly="deployed.Client")\nclass Account')


def test_a_computation_is_renamed_and_the_rename_rolled_back(make_live: Callable[..., LiveGroup], tmp_path: Path) -> None:
    live = make_live(PARTITIONS=4, PARTITIONS_LEASE_SECONDS=2, PARTITIONS_STATE_SIGNING_KEY="0123456789abcdef0123", PARTITIONS_DEPLOY_WAIT_SECONDS=600)
    old, new = Release(live, tmp_path / "old", PAYS), Release(live, tmp_path / "new", COLLECTS)

    def send(word: str, name: str = "pay", **options: Any) -> None:
        for key in KEYS:
            live.app.send_task(name, args=[[key, word]], queue=f"partition.{partition_of(key, 4)}", **options)

    first = old.start("old")
    send("remind")
    wait_until(lambda: sum(row.parked for row in live.group.status()) == len(KEYS), message="the handlers have not failed")
    send("behind it")
    send("much later", countdown=3600)

    # Before the deploy, the new code finds everything under the old name.
    code, found = new.run("migrate", "--check")
    one = next(one for one in found["computations"] if one["computation"] == "collect")
    assert (code, one["states"], one["outdated"], one["failed"]) == (0, 12, 12, 0)
    assert one["former_timers"] == 12
    assert new.states("collect") == {key: {"paid": ["remind"], "reminded": 0} for key in KEYS}
    assert {one["name"] for one in new.run("timers", KEYS[0])[1]} == {"reminder", "later"}
    assert new.run("timers", KEYS[0], "--cancel", "later", "--yes")[0] == 0

    second = new.start("new")
    live.wait_owned(by=2)
    send("by the new name", "collect")  # half of them wait until the old worker has ended
    assert any("'collect' is unknown to old@host" in text for text in new.run("versions")[1]["waits"])
    taken = {queue for queue, owner in live.owners().items() if owner == "new@host" and queue != "partition"}
    first.terminate()
    first.wait()
    live.wait_owned(by=1)
    for key in KEYS:
        live.group.parked_keys.retry(key, by="test")
    wait_until(lambda: live.processed() == 4 * len(KEYS))
    all_of_it = ["remind", "behind it", "by the new name"]
    assert new.states("collect") == {key: {"paid": all_of_it, "reminded": 1} for key in KEYS}
    code, found = new.run("migrate", "--apply", "--yes")
    one = next(one for one in found["computations"] if one["computation"] == "collect")
    assert (one["failed"], one["busy"], one["former_timers"], one["former_messages"]) == (0, 0, 12, 12)
    code, found = new.run("migrate", "--check")
    one = next(one for one in found["computations"] if one["computation"] == "collect")
    assert (one["outdated"], one["former_timers"], one["former_messages"]) == (0, 0, 12)
    assert new.run("versions", "--exit-code")[0] == 0

    # The old code would begin with new states, so it gets no partition. To roll back, it says what the name was meanwhile.
    again = old.start("again")
    second.terminate()
    second.wait()
    wait_until(lambda: all(live.status()[queue].refused_to == ("again@host",) for queue in taken))
    assert "newer code has renamed 'pay' to 'collect'" in again.log()
    back = Release(live, tmp_path / "back", PAYS_AGAIN)
    back.start("back")
    again.terminate()
    again.wait()
    live.wait_owned(by=1)
    send("rolled back")
    send("with the name between", "collect")
    wait_until(lambda: live.processed() == 6 * len(KEYS))
    assert back.states("pay") == {key: {"paid": [*all_of_it, "rolled back", "with the name between"], "reminded": 1} for key in KEYS}
    assert live.dead_letters() == []
