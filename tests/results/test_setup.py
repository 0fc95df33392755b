"""A worker refuses to start if results cannot be part of a commit."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.results import elsewhere
from tests.results.conftest import Client

MakeClient = Callable[..., Client]


@pytest.mark.parametrize(
    ("backend", "text"),
    [
        ("{server}/1", "is not the database of the broker"),
        ("redis://127.0.0.1:1/0", "is not the database of the broker"),
        ("cache+memory://", "the app's result backend is memory://"),
        ("", "the app has no result backend"),
    ],
)
def test_a_result_backend_that_is_not_the_brokers_own_is_refused(
    make_client: MakeClient, redis_url: str, backend: str, text: str
) -> None:
    here = make_client()
    url = backend.format(server=redis_url.rpartition("/")[0])
    worker = here.start_worker("-Q", "partition", module=elsewhere.__name__, RESULTS_IN=url)
    assert worker.wait(timeout=60) == 1
    assert "'results.add' is declared with reply=True" in worker.log()
    assert text in worker.log()


def test_the_same_database_under_another_url_is_accepted(make_client: MakeClient, redis_url: str) -> None:
    here = make_client()
    url = redis_url.replace("127.0.0.1", "localhost")
    here.start_worker("-Q", "partition", module=elsewhere.__name__, RESULTS_IN=url).wait_ready()


def test_a_user_who_may_not_store_results_is_refused(make_client: MakeClient, redis_url: str) -> None:
    here = make_client()
    here.live.client.execute_command(
        "ACL", "SETUSER", "narrow", "on", ">x", "resetchannels", "~partition*", "~{partition*", "~_kombu*", "&*", "+@all"
    )
    url = redis_url.replace("redis://", "redis://narrow:x@")
    worker = here.start_worker("-Q", "partition", REDIS_URL=url)
    assert worker.wait(timeout=60) == 1
    assert "may not store and publish results" in worker.log()
    here.live.client.execute_command("ACL", "DELUSER", "narrow")
