"""Parts of the pages, without a server: trees of states, addresses, Flower's navigation, recent tasks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs

import flower
import pytest
from flower.utils.search import parse_query

from celery_partitions.dashboard.formatting import key_body, tasks_query
from celery_partitions.dashboard.loader import with_entry
from celery_partitions.dashboard.recent_tasks import of_key, of_partition
from celery_partitions.dashboard.tree import MAX_CHILDREN, MAX_NODES, Node, tree_of
from celery_partitions.model.keys import partition_of
from celery_partitions.model.topology import Topology
from tests.dashboard.declared import Account


class Rude:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def nodes(tree: Node) -> int:
    return 1 + sum(map(nodes, tree.children))


def test_a_tree_has_types() -> None:
    tree = tree_of(Account(3, ["x"]))
    assert (tree.type, [(one.name, one.type, one.text) for one in tree.children]) == (
        "Account",
        [("balance", "int", "3"), ("notes", "list", "")],
    )
    assert tree.children[1].children[0].text == "'x'"
    assert tree_of({1: None, "k": b"\xff"}).children[0].name == "1"
    assert tree_of([]).text == "empty"


def test_a_tree_is_bounded_and_never_raises() -> None:
    wide = tree_of(list(range(1000)))
    assert (len(wide.children), wide.more) == (MAX_CHILDREN, 1000 - MAX_CHILDREN)
    assert nodes(tree_of([list(range(100))] * 100)) <= MAX_NODES + 1
    endless: list[Any] = []
    endless.append(endless)
    tree_of(endless)
    assert "RuntimeError" in tree_of(Rude()).text
    assert tree_of(10**5000).text == "(an int of 16,610 bits)"
    assert tree_of("\ud800").text == "'\\ud800'"
    assert len(tree_of("x" * 100_000).text) < 3_000


def test_a_key_in_an_action() -> None:
    assert key_body({"key": "\\xff", "key_base64": "/w=="}) == {"key": "/w==", "base64": True}


@pytest.mark.parametrize("key", ["AAPL", 'a "quoted" \\ key', "a:b (c) OR d", "ü"])
def test_the_address_of_flowers_task_list_searches_for_the_key(key: str) -> None:
    """Flower's script searches for `name:` and the text in the address."""
    [words] = parse_qs(tasks_query("update stock", key)[1:])["name"]
    name, arguments = parse_query("name:" + words).children
    assert (name.field, name.value, arguments.field, arguments.value) == ("name", "update stock", "args", f"key={key} ")
    assert tasks_query("x", key) == "", "Flower does not search for such a short word"


def test_the_entry_is_after_broker_and_absent_if_flowers_navigation_differs() -> None:
    navbar = (Path(flower.__file__).parent / "templates" / "navbar.html").read_text()
    made = with_entry(navbar)
    assert made.count("<li") == navbar.count("<li") + 1
    assert made.index("'broker'") < made.index("'partitions'") < made.index("</ul>")
    assert with_entry("<nav>another</nav>") == "<nav>another</nav>"


def test_the_tasks_of_a_key_newest_first() -> None:
    def task(key: str, at: float) -> SimpleNamespace:
        return SimpleNamespace(
            name="t", state="SUCCESS", args=f"key={key} (x)", timestamp=at, runtime=0.1, worker=None, exception=None
        )

    state = SimpleNamespace(
        tasks={"1": task("a", 1), "2": task("ab", 2), "3": task("a", 3), "4": SimpleNamespace(args=None)}
    )
    assert [one["id"] for one in of_key(state, "a")] == ["3", "1"]


def test_the_tasks_of_a_key_that_is_not_utf_8() -> None:
    """They are found by the key's form in workers' events: `tests/worker/test_events.py`."""
    key = "caf\udce9"
    partition = partition_of(key, 4)
    fields = {"name": "t", "state": "SUCCESS", "timestamp": 1, "runtime": 0.1, "worker": None, "exception": None}
    state = SimpleNamespace(
        tasks={
            "1": SimpleNamespace(args=r"key=caf\xe9 (x)", **fields),
            "2": SimpleNamespace(args="key=\ud800 (x)", **fields),
        }
    )
    installation = SimpleNamespace(group=SimpleNamespace(topology=Topology(0, 4)))
    assert [(one["id"], one["key"]) for one in of_key(state, key)] == [("1", r"caf\xe9")]
    assert [one["id"] for one in of_partition(state, partition, installation)] == ["1"]  # type: ignore[arg-type]
