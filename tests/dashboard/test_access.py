"""Every URL of ours follows Flower's rules: login, read-only mode, prefix, no cross-site requests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from celery import Celery

from celery_partitions_config.settings import Settings
from tests.dashboard.served import Served
from tests.producer.conftest import MakeApp, make_app

__all__ = ["make_app"]

PAGES = ["/partitions", "/partition/0", "/partition/ingress", "/partitions/key?key=a", "/partitions/dead-letters"]
LOADED = ["/partitions/events", "/partitions/overview"]
READS = [
    "/api/partitions",
    "/api/partitions/events",
    "/api/partitions/0",
    "/api/partitions/keys/a",
    "/api/partitions/keys?key=a",
    "/api/partitions/dead-letters",
]
ACTIONS = [
    "/api/partitions/0/pause",
    "/api/partitions/0/resume",
    *(f"/api/partitions/key/{what}" for what in ("retry", "skip", "discard", "state", "forget")),
    *(f"/api/partitions/dead-letters/{what}" for what in ("retry", "discard")),
]


@pytest.fixture
def app(make_app: MakeApp, settings: Settings) -> Iterator[Celery]:
    yield make_app(settings.redis_url, settings)


def test_without_the_login_nothing_is_shown_or_done(app: Celery) -> None:
    with Served(app, login=None) as served:
        for path in PAGES + LOADED + READS:
            assert served.ask(path).status == 401, path
            assert served.ask(path, login="me:wrong").status == 401, path
        for path in ACTIONS:
            assert served.post(path).status == 401, path


def test_the_api_also_asks_a_browser_for_the_login(app: Celery) -> None:
    """A browser remembers the login per folder: it does not send it unasked to a URL in another folder."""
    with Served(app, login=None) as served:
        assert served.post("/api/partitions/0/pause").headers["WWW-Authenticate"] == 'Basic realm="flower"'


def test_with_oauth_pages_lead_to_the_login(app: Celery) -> None:
    with Served(app, login=None, basic_auth=None, auth=".*@example.com") as served:
        for path in PAGES + LOADED:
            answer = served.ask(path)
            assert answer.status == 302 and answer.headers["Location"].startswith("/login"), path
        for path in READS:
            assert served.ask(path).status == 302, path
        for path in ACTIONS:
            assert served.post(path).status == 403, path


def test_without_any_login_pages_are_open_as_flowers_are_and_the_api_is_not(app: Celery) -> None:
    with Served(app, login=None, basic_auth=None) as served:
        for path in PAGES:
            assert served.ask(path).status == 200, path
        for path in READS:
            assert served.ask(path).status == 401, path
        for path in ACTIONS:
            assert served.post(path).status == 401, path
        page = served.ask("/partition/0").text
        assert "Flower has no login" in page and "data-post" not in page


def test_in_read_only_mode_everything_is_shown_and_no_action_is_possible(app: Celery) -> None:
    with Served(app, read_only=True) as served:
        for path in [*PAGES, *(path for path in READS if "events" not in path)]:
            assert served.ask(path).status == 200, path
        for path in ACTIONS:
            assert served.post(path).status == 403, path
        page = served.ask("/partition/0").text
        assert "read-only mode" in page and "data-post" not in page


def test_actions_are_posts(app: Celery) -> None:
    with Served(app) as served:
        for path in ACTIONS:
            if not path.endswith(("/pause", "/resume")):
                assert served.ask(path, method="GET").status in (404, 405), path
            else:
                assert served.ask(path, method="GET").status == 405, path


@pytest.mark.parametrize("headers", [{"Sec_Fetch_Site": "cross-site"}, {"Origin": "https://elsewhere.example"}])
@pytest.mark.parametrize("login", [True, False])
def test_pages_of_other_sites_cannot_act(
    app: Celery, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], login: bool
) -> None:
    monkeypatch.setenv("FLOWER_UNAUTHENTICATED_API", "true")
    options = {} if login else {"basic_auth": None, "login": None}
    with Served(app, **options) as served:
        for path in ACTIONS:
            assert served.post(path, **headers).status == 403, path
        assert served.post("/api/partitions/0/pause", Sec_Fetch_Site="same-origin").status == 200


def test_under_a_prefix_all_links_have_it(app: Celery) -> None:
    with Served(app, url_prefix="behind") as served:
        for path in PAGES:
            page = served.ask(f"/behind{path}")
            assert page.status == 200, path
            ours = [part.split('"')[0] for part in page.text.replace('src="', 'href="').split('href="')[1:]]
            assert [link for link in ours if link.startswith("/part")] == []
            assert 'data-api="/behind/api/partitions"' in page.text
        assert served.ask("/behind/partitions/static/common.js", login=None).status == 200
        assert served.ask("/partitions").status == 404


def test_an_app_without_partitions_says_so() -> None:
    app = Celery("plain", broker="redis://127.0.0.1:1/0", set_as_current=False)
    with Served(app) as served:
        for path in PAGES:
            answer = served.ask(path)
            assert answer.status == 404 and "has no partitions" in answer.text, path
        assert "has no partitions" in served.ask("/api/partitions").json["error"]
