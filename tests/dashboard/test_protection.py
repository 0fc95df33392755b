"""Protection of Flower's pages from other sites: known hosts if there is no login, no frames, a strict policy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from celery import Celery

from celery_partitions.dashboard.protection import is_known_host
from celery_partitions_config.resolution import resolve
from celery_partitions_config.settings import Settings, SettingsError
from tests.dashboard.served import Served
from tests.dashboard.test_access import PAGES, READS
from tests.producer.conftest import MakeApp, make_app

__all__ = ["make_app"]

#: Flower's pages, ours, and their resources.
ALL = ["/", "/workers", "/tasks", "/broker", "/metrics", "/api/task/types", "/partitions/overview", "/nothing", *PAGES, *READS]
STATIC = "/partitions/static/common.js"


@pytest.fixture
def app(make_app: MakeApp, settings: Settings) -> Iterator[Celery]:
    yield make_app(settings.redis_url, settings)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:5555", "127.9.9.9", "localhost", "LOCALHOST:80", "localhost.", "flower.localhost:5555", "[::1]:5555", "mine.example:1"],
)
def test_loopback_and_configured_names_are_known(host: str) -> None:
    assert is_known_host(host, ("mine.example",))


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "evil.example:5555", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", "0.0.0.0", "[::2]",
     "notlocalhost", "evil@127.0.0.1.evil.example", "[", "[x", "mine.example.evil.example", "127.0.0.1@evil.example"],
)  # fmt: skip
def test_other_names_are_unknown(host: str) -> None:
    assert not is_known_host(host, ("mine.example",))


def test_without_a_login_another_sites_name_is_refused_everywhere(app: Celery) -> None:
    with Served(app, login=None, basic_auth=None) as served:
        for path in [*ALL, STATIC]:
            answer = served.ask(path, Host="evil.example:5555")
            assert answer.status == 403, path
            assert "PARTITIONS_DASHBOARD_HOSTS" in answer.text and answer.headers["Content-Type"].startswith("text/plain")
        for path in ("/api/worker/shutdown/x", "/api/partitions/0/pause"):
            assert served.post(path, Host="evil.example").status == 403, path
        assert served.ask("/healthcheck", Host="evil.example").status == 200  # its answer reveals nothing
        for path in PAGES:
            assert served.ask(path, Host="localhost:5555").status == 200, path


def test_a_setting_adds_names(make_app: MakeApp, redis_url: str) -> None:
    app = make_app(redis_url, Settings(redis_url=redis_url, dashboard_hosts=("flower.example",)))
    with Served(app, login=None, basic_auth=None) as served:
        assert served.ask("/partitions", Host="flower.example:443").status == 200
        assert served.ask("/partitions", Host="evil.example").status == 403


def test_the_configured_address_is_known(app: Celery) -> None:
    with Served(app, login=None, basic_auth=None, address="flower.internal") as served:
        assert served.ask("/partitions", Host="flower.internal:5555").status == 200


def test_with_a_login_any_name_is_answered(app: Celery) -> None:
    with Served(app) as served:
        assert served.ask("/partitions", Host="flower.example.com").status == 200


def test_the_check_works_under_a_prefix(app: Celery) -> None:
    with Served(app, login=None, basic_auth=None, url_prefix="shop") as served:
        assert served.ask("/shop/partitions").status == 200
        assert served.ask("/shop/workers", Host="evil.example").status == 403
        assert served.ask("/shop/partitions", Host="evil.example").status == 403


def test_every_answer_forbids_frames_and_guessing_of_types(app: Celery) -> None:
    with Served(app) as served:
        for path in [*(path for path in ALL if "events" not in path), STATIC, "/static/js/flower.js"]:
            headers = served.ask(path).headers
            assert headers["X-Frame-Options"] == "DENY", path
            assert headers["X-Content-Type-Options"] == "nosniff", path
            assert headers["Referrer-Policy"] == "same-origin", path
            assert "frame-ancestors 'none'" in headers["Content-Security-Policy"], path


def test_our_pages_run_no_inline_script_or_style_and_nothing_from_elsewhere(app: Celery) -> None:
    with Served(app) as served:
        for path in PAGES:
            answer = served.ask(path)
            policy = answer.headers["Content-Security-Policy"]
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'"), path
            assert "unsafe" not in policy
            assert "style=" not in answer.text and "<script>" not in answer.text and "onclick" not in answer.text, path


@pytest.mark.parametrize("text", ["http://flower.example", "flower.example:5555", "a b"])
def test_a_host_with_a_scheme_or_a_port_is_refused(text: str) -> None:
    resolved = resolve(environ={"PARTITIONS_DASHBOARD_HOSTS": text})
    with pytest.raises(SettingsError, match="names without http://"):
        resolved.check("dashboard")
