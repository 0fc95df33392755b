"""Each URL that we add to Flower, from Flower's own list: nothing without the login, no change by GET or from another site,
no action in read-only mode, and all of it under `url_prefix`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser

import pytest

from tests.dashboard.conftest import LOGIN
from tests.fundamentals.live import LiveGroup
from tests.support.applications import accounts
from tests.support.flower import FlowerProcess
from tests.support.worker import ROOT

#: Prints the URLs that our configuration adds to Flower: pattern, whether it serves static files, and its methods.
LIST_OURS = """
import json, runpy
from tornado import web
from flower import options, urls

def pattern_of(handler):
    return handler.regex.pattern if isinstance(handler, web.URLSpec) else handler[0]

stock = {pattern_of(handler) for handler in urls.handlers} - {"/metrics"}  # we replace its page
runpy.run_path("config/flowerconfig.py")
ours = []
for handler in urls.handlers:
    pattern = pattern_of(handler)
    if pattern in stock:
        continue
    cls = handler.handler_class if isinstance(handler, web.URLSpec) else handler[1]
    methods = [
        name for name in ("GET", "POST", "PUT", "PATCH", "DELETE")
        if getattr(cls, name.lower()) is not getattr(web.RequestHandler, name.lower())
    ]
    ours.append({"pattern": pattern, "static": issubclass(cls, web.StaticFileHandler), "methods": methods})
print(json.dumps(ours))
"""

SAME_SITE = {"Sec-Fetch-Site": "same-origin"}
FROM_ELSEWHERE = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Origin": "http://elsewhere.example"},
]
PREFIX = "/inner"


@dataclass(frozen=True)
class Address:
    path: str
    static: bool
    methods: list[str]


def paths(pattern: str) -> Iterator[str]:
    """Sample URLs of a pattern: each alternative that it lists, and "0" for any other group."""
    found = re.search(r"\(([^()]*)\)", pattern)
    if found is None:
        yield pattern.rstrip("$")
        return
    words = {word if re.fullmatch(r"[a-z-]+", word) else "0" for word in found[1].split("|")}
    for word in sorted(words):
        yield from paths(pattern[: found.start()] + word + pattern[found.end() :])


@pytest.fixture(scope="module")
def ours() -> list[Address]:
    done = subprocess.run([sys.executable, "-c", LIST_OURS], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    handlers = json.loads(done.stdout.splitlines()[-1])
    found = [Address(path, one["static"], one["methods"]) for one in handlers for path in paths(one["pattern"])]
    assert found, "our configuration adds nothing"
    return found


@pytest.fixture(scope="module")
def guarded(ours: list[Address]) -> list[Address]:
    """All but the static files and /metrics, which need no login, as in stock Flower."""
    return [one for one in ours if not one.static and one.path != "/metrics"]


@pytest.fixture(scope="module")
def inner(live: LiveGroup, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlowerProcess]:
    """Read-only, behind a prefix, with a login."""
    env = {**live.env, "FLOWER_BASIC_AUTH": LOGIN, "FLOWER_READ_ONLY": "true", "FLOWER_URL_PREFIX": PREFIX.strip("/")}
    with FlowerProcess(accounts.__name__, directory=tmp_path_factory.mktemp("inner"), env=env) as flower:
        yield flower


@pytest.fixture(scope="module")
def open_flower(live: LiveGroup, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlowerProcess]:
    """No login, and an unauthenticated API."""
    env = {**live.env, "FLOWER_UNAUTHENTICATED_API": "true"}
    with FlowerProcess(accounts.__name__, directory=tmp_path_factory.mktemp("open"), env=env) as flower:
        yield flower


def test_each_url_is_a_page_or_an_action(ours: list[Address]) -> None:
    """GET reads and POST acts; there is no other method."""
    assert {tuple(one.methods) for one in ours} == {("GET",), ("POST",)}


def test_nothing_is_shown_or_done_without_the_login(flower: FlowerProcess, guarded: list[Address]) -> None:
    for login in (None, "operator:wrong"):
        answers = {
            (method, one.path): flower.ask(method, one.path, login=login, headers=SAME_SITE)[0]
            for one in guarded
            for method in one.methods
        }
        assert {question: status for question, status in answers.items() if status not in (401, 302)} == {}
        assert {question: status for question, status in answers.items() if question[1].startswith("/api/") and status != 401} == {}


def test_with_the_login_pages_answer(flower: FlowerProcess, ours: list[Address]) -> None:
    """Pages answer 200, or 400 or 404 if the key or the partition is missing."""
    answers = {one.path: flower.ask("GET", one.path, login=LOGIN)[0] for one in ours if "GET" in one.methods}
    assert {path: status for path, status in answers.items() if status not in (200, 400, 404)} == {}
    assert {path: status for path, status in answers.items() if path in ("/partitions", "/api/partitions")} == {
        "/partitions": 200,
        "/api/partitions": 200,
    }


def test_unknown_urls_and_methods_are_refused(flower: FlowerProcess, guarded: list[Address]) -> None:
    """Especially GET on an action: a link or an image must not change anything."""
    answers = {
        (method, one.path): flower.ask(method, one.path, login=LOGIN, headers=SAME_SITE)[0]
        for one in guarded
        for method in {"GET", "POST", "PUT", "DELETE"} - set(one.methods)
    }
    assert {question: status for question, status in answers.items() if status != 405} == {}


def test_another_site_cannot_do_anything(flower: FlowerProcess, open_flower: FlowerProcess, guarded: list[Address]) -> None:
    """With the login, and also if none is needed."""
    for which, login in ((flower, LOGIN), (open_flower.wait_ready(), None)):
        answers = {
            (one.path, *headers): which.ask("POST", one.path, login=login, headers=headers)[0]
            for one in guarded
            if "POST" in one.methods
            for headers in FROM_ELSEWHERE
        }
        assert answers, "there is no action"
        assert {question: status for question, status in answers.items() if status != 403} == {}


def test_a_read_only_flower_does_nothing(inner: FlowerProcess, guarded: list[Address]) -> None:
    inner.wait_ready(PREFIX + "/healthcheck")
    for one in guarded:
        if "POST" in one.methods:
            assert inner.ask("POST", PREFIX + one.path, headers=SAME_SITE)[0] == 401, one.path
            assert inner.ask("POST", PREFIX + one.path, login=LOGIN, headers=SAME_SITE)[0] == 403, one.path


def test_all_is_behind_the_prefix_and_links_stay_there(inner: FlowerProcess, ours: list[Address]) -> None:
    inner.wait_ready(PREFIX + "/healthcheck")
    for one in ours:
        if "GET" not in one.methods:
            continue
        assert inner.ask("GET", one.path, login=LOGIN)[0] == 404, one.path
        status, headers, content = inner.ask("GET", PREFIX + one.path, login=LOGIN)
        assert status in (200, 400, 404), one.path
        if "html" in headers.get("Content-Type", ""):
            outside = [link for link in links(content.decode()) if not link.startswith((PREFIX + "/", "#", "https://", "?"))]
            assert outside == [], one.path


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        # Icons within the page are referenced by id.
        self.found += [value or "" for name, value in attrs if name in ("href", "src", "action") and tag != "use"]


def links(html: str) -> list[str]:
    """All links of a page."""
    parser = _Links()
    parser.feed(html)
    return parser.found
