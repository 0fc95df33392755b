"""The pages' HTML: Flower's layout, everything escaped, and the error if Redis is not reachable."""

from __future__ import annotations

import html
from collections.abc import Callable
from html.parser import HTMLParser
from urllib.parse import quote

import pytest

from celery_partitions.model.timeline import Event, KeyChange, StateChange
from celery_partitions.store.measurements import add_measurements
from celery_partitions.store.recent_commits import RecentCommit
from celery_partitions.store.telemetry import Measurements
from celery_partitions_config.settings import Settings
from tests.dashboard.declared import Account, pay
from tests.dashboard.group import Filled
from tests.dashboard.served import Served
from tests.dashboard.serving import filled, make_app, served, shop
from tests.producer.conftest import MakeApp
from tests.support.server import RedisServer
from tests.support.wait import wait_until

__all__ = ["filled", "make_app", "served", "shop"]

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> & </textarea></pre>"


class Parsed(HTMLParser):
    """The tags of a page, and the links of its navigation."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.entries: list[tuple[str, bool]] = []
        self._link: dict[str, str | None] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._link = dict(attrs) if tag == "a" and (dict(attrs).get("class") or "").startswith("nav-link") else None

    def handle_data(self, data: str) -> None:
        if self._link is not None and data.strip():
            self.entries.append((data.strip(), self._link.get("aria-current") == "page"))


@pytest.mark.parametrize(
    ("path", "active"),
    [
        ("/workers", "Workers"),
        ("/tasks", "Tasks"),
        ("/broker", "Broker"),
        ("/partitions", "Partitions"),
        ("/partition/1", "Partitions"),
        ("/partitions/key?key=a", "Partitions"),
        ("/partitions/dead-letters", "Partitions"),
        ("/nowhere", None),
    ],
)
def test_every_page_has_the_navigation_entry(served: Served, filled: Filled, path: str, active: str | None) -> None:
    entries = Parsed(served.ask(path).text).entries
    assert entries == [(name, name == active) for name in ("Workers", "Tasks", "Broker", "Partitions")]


def test_shown_text_never_becomes_markup(served: Served, filled: Filled) -> None:
    partition = filled.partition(HOSTILE)
    filled.state(HOSTILE, balance=1, notes=[HOSTILE])
    filled.park(HOSTILE, error=HOSTILE)
    filled.add_dead_letter(
        partition, 1, raw=HOSTILE.encode(), error=HOSTILE, trace=HOSTILE, key=HOSTILE, message_id=HOSTILE, task=HOSTILE
    )
    filled.client.lpush(filled.names.queue(partition), HOSTILE)
    after = filled.group.codec.dump(pay.computation, HOSTILE, Account(notes=[HOSTILE]))
    event = Event("failed", HOSTILE, HOSTILE, error=HOSTILE)
    filled.change(HOSTILE, KeyChange(5.0, 1, HOSTILE, [event], states={pay.name: StateChange(None, after), HOSTILE: StateChange(b"", 7)}))
    commit = RecentCommit(at=5.0, commit_number=1, worker=HOSTILE, token=7, taken=1, failed=1, error=HOSTILE)
    add_measurements(filled.client, filled.names, {partition: Measurements()}, {partition: [commit]})
    coded = quote(HOSTILE, safe="")
    paths = [
        f"/partition/{partition}",
        f"/partitions/key?key={coded}",
        "/partitions/dead-letters",
        f"/partitions/dead-letters?q={coded}&reason={coded}&fingerprint={coded}",
    ]
    for path in paths:
        answer = served.ask(path)
        assert answer.status == 200, answer.text
        tags = Parsed(answer.text).tags
        assert all(one.get("src") for tag, one in tags if tag == "script"), "no script from a message"
        assert not [one for tag, one in tags if "onerror" in one or one.get("src") == "x"]
        assert html.escape("<script>alert(1)</script>", quote=False) in answer.text, path
    for path in (
        "/api/partitions/keys?key=" + coded,
        "/api/partitions/dead-letters",
        "/partition/99",
        f"/partition/{coded}",
    ):
        answer = served.ask(path)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        if "html" in answer.headers["Content-Type"]:
            assert "<script>alert" not in answer.text


LISTS = ("/partitions/parked", "/partitions/computations", "/partitions/workers", "/partitions/keys", "/partitions/audit")


def test_tables_have_captions_buttons_names_and_inputs_labels(served: Served, filled: Filled) -> None:
    filled.state("a", balance=1)
    filled.park("a")
    filled.add_dead_letter("1", 1)
    for path in ("/partitions", f"/partition/{filled.partition('a')}", "/partitions/key?key=a", "/partitions/dead-letters", *LISTS):
        page = served.ask(path).text
        assert page.count("<table") == page.count("<caption"), path
        tags = Parsed(page).tags
        ids = [one["id"] for _, one in tags if one.get("id")]
        assert len(ids) == len(set(ids)), path
        labelled = {one.get("for") for tag, one in tags if tag == "label"}
        for tag, one in tags:
            if tag in ("input", "textarea") and one.get("type") not in ("hidden", "checkbox"):
                assert one.get("id") in labelled, (path, one)


def test_an_unreachable_redis(make_app: MakeApp, server_factory: Callable[..., RedisServer]) -> None:
    server = server_factory()
    app = make_app(server.url(), Settings(redis_url=server.url(), redis_timeout_seconds=1))
    with Served(app) as served:
        assert served.ask("/partition/1").status == 200
        server.stop()
        assert served.ask("/partitions").status == 200, "the page reads nothing; its events report the error"
        for path in ("/partition/1", "/partitions/key?key=a", "/partitions/dead-letters", *LISTS):
            answer = served.ask(path)
            assert answer.status == 503 and "Cannot read the partitions" in answer.text and "Traceback" not in answer.text, path
        wait_until(lambda: served.ask("/api/partitions").status == 503, message="the overview may be two seconds old")
        assert served.ask("/api/partitions").json["error"].startswith("Redis: ")
        assert served.post("/api/partitions/1/pause").status == 503
        server.start()
        for path in ("/partition/1", "/partitions/key?key=a", "/partitions/dead-letters", "/api/partitions"):
            wait_until(lambda path=path: served.ask(path).status == 200)  # type: ignore[misc]


def test_a_process_with_another_n_says_so(served: Served, filled: Filled) -> None:
    filled.client.hset(filled.names.group_meta, "partitions", 7)
    answer = served.ask("/partition/1")
    assert answer.status == 409 and "7" in answer.text and "Traceback" not in answer.text
