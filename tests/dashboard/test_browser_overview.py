"""The page of all partitions in a browser: it updates itself, and an operator pauses and resumes on it."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.admin.test_numbers import SIZES, SPANS
from tests.dashboard.conftest import LOGIN, PARTITIONS, Visiting
from tests.dashboard.trouble import hold, make_dead_letters, partition_of_queue, wait_balance
from tests.fundamentals.live import LiveGroup
from tests.support.applications.accounts import Payment, pay
from tests.support.wait import wait_until

NOT_ZERO = re.compile(r"^[1-9]")


def total(page: Page, name: str) -> Locator:
    return page.locator(f"[data-total='{name}']")


def cell(page: Page, partition: str, field: str) -> Locator:
    return page.locator(f"#partition-{partition} [data-field='{field}']")


def number(locator: Locator) -> int:
    return int((locator.text_content() or "0").replace(",", ""))


def test_it_shows_a_row_for_each_queue_with_its_owner(visit: Visiting) -> None:
    page = visit().open("/workers")
    page.get_by_role("link", name="Partitions", exact=True).click()
    expect(page.locator("#partitions-table tbody tr")).to_have_count(PARTITIONS + 1)
    expect(page.get_by_text("5 of 5 queues owned by 2 workers")).to_be_visible()
    owner = page.locator("#partition-0").get_by_role("link", name=re.compile("(one|two)@dashboard"))
    name = owner.text_content()
    owner.click()
    expect(page).to_have_title(re.compile(str(name)))


def test_its_numbers_change_while_messages_are_processed(visit: Visiting, live: LiveGroup, key: str) -> None:
    one = visit()
    page = one.open("/partitions")
    partition = partition_of_queue(live, key)
    expect(page.locator("#live-status")).to_have_text("Live")
    expect(cell(page, partition, "keys")).to_have_text(re.compile(r"^\d"))
    before = number(cell(page, partition, "keys").locator("span"))
    live.send(pay, [Payment(f"{key}-{account}", 1) for account in range(400)])

    def is_moving() -> bool:
        """A rate is shown for two seconds, which a busy machine may miss, so messages are sent until one is seen."""
        live.send(pay, [Payment(f"{key}-{account}", 1) for account in range(10)])
        return NOT_ZERO.match(total(page, "done_per_second").text_content() or "") is not None

    wait_until(is_moving, every=0.1)
    # The rate may come from another test's messages, in a row that was drawn before ours.
    wait_until(lambda: number(cell(page, partition, "keys").locator("span")) > before)
    expect(page.locator("#chart-flow polyline.line-done")).to_have_count(1)
    assert one.loads == 1, "the page was loaded again"


def test_numbers_have_the_same_form_as_in_the_commands(visit: Visiting) -> None:
    page = visit().open("/partitions")
    for name, cases in (("span", SPANS), ("size", SIZES)):
        values = [value for value, _ in cases]
        assert page.evaluate(f"(values) => values.map(window.partitions.{name})", values) == [text for _, text in cases]


def test_it_shows_problems(visit: Visiting, live: LiveGroup, key: str) -> None:
    page = visit().open("/partitions")
    partition = partition_of_queue(live, key)
    make_dead_letters(live, key)
    hold(live, key)
    for field in ("dead_letters", "parked"):
        expect(cell(page, partition, field)).to_have_text(NOT_ZERO)
        expect(cell(page, partition, field)).to_have_class(re.compile("partitions-bad"))


@pytest.mark.usefixtures("resumed")
def test_pause_and_resume(visit: Visiting, live: LiveGroup, key: str) -> None:
    page = visit().open("/partitions")
    partition = partition_of_queue(live, key)
    page.get_by_role("button", name=f"Pause partition.{partition}", exact=True).click()
    agree(page)
    expect(cell(page, partition, "paused")).to_contain_text("paused")
    assert live.status()[f"partition.{partition}"].paused
    live.send(pay, [Payment(key, 5)])
    expect(cell(page, partition, "waiting").locator("span")).to_have_text("1")
    page.get_by_role("button", name=f"Resume partition.{partition}", exact=True).click()
    agree(page)
    expect(cell(page, partition, "paused")).to_contain_text("running")
    wait_balance(live, pay, key, 5)
    assert LOGIN.partition(":")[0] in str(live.group.audit.last(2))


def agree(page: Page) -> None:
    """Confirm, if the page asks."""
    yes = page.locator("dialog[open] #confirm-yes")
    if yes.count():
        yes.click()


