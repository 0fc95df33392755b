"""The page of all partitions in a browser: it updates itself, and an operator pauses and resumes on it."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from celery_partitions.admin.pause import pause
from celery_partitions.producer.bulk import send_many
from celery_partitions.store.measurements import read_pushed
from tests.admin.test_numbers import SIZES, SPANS
from tests.dashboard.conftest import LOGIN, PARTITIONS, Visiting
from tests.dashboard.trouble import hold, make_dead_letters, partition_of_queue, wait_balance
from tests.fundamentals.live import LiveGroup
from tests.support.applications.accounts import Payment, pay
from tests.support.applications.deliveries import Order, orders
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
    before = number(cell(page, partition, "keys"))
    live.send(pay, [Payment(f"{key}-{account}", 1) for account in range(400)])

    def is_moving() -> bool:
        """A rate is shown for two seconds, which a busy machine may miss, so messages are sent until one is seen."""
        live.send(pay, [Payment(f"{key}-{account}", 1) for account in range(10)])
        return NOT_ZERO.match(total(page, "done_per_second").text_content() or "") is not None

    wait_until(is_moving, every=0.1)
    # The rate may come from another test's messages, in a row that was drawn before ours.
    wait_until(lambda: number(cell(page, partition, "keys")) > before)
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
    menu = page.get_by_role("button", name=f"Actions for partition.{partition}", exact=True)
    menu.click()
    expect(page.get_by_role("dialog")).to_contain_text("its messages wait until you resume")
    page.get_by_role("button", name="Pause", exact=True).click()
    expect(cell(page, partition, "state")).to_have_text("paused")
    expect(page.locator("#attention-list [data-rule=paused]")).to_contain_text(f"paused by operator: partition.{partition}")
    assert live.status()[f"partition.{partition}"].paused
    live.send(pay, [Payment(key, 5)])
    expect(cell(page, partition, "waiting")).to_have_text("1")
    menu.click()
    page.get_by_role("button", name="Resume", exact=True).click()
    expect(cell(page, partition, "state")).to_have_text(re.compile("running|idle"))
    wait_balance(live, pay, key, 5)
    assert LOGIN.partition(":")[0] in str(live.group.audit.last(2))


def test_rows_are_sorted_and_filtered_and_the_address_remembers_it(visit: Visiting) -> None:
    page = visit().open("/partitions")
    rows = page.locator("#partitions-table tbody tr")
    expect(rows).to_have_count(PARTITIONS + 1)
    page.get_by_role("button", name="Queue").click()
    expect(rows.first).to_have_id("partition-ingress")
    expect(page.locator("th[aria-sort=descending]")).to_have_text("Queue")
    page.get_by_label("Filter", exact=True).fill("partition.2")
    expect(rows).to_have_count(1)
    expect(page.locator("#rows-count")).to_have_text("1 of 5")
    page.reload()
    expect(rows).to_have_count(1)
    expect(page.get_by_label("Filter", exact=True)).to_have_value("partition.2")
    page.get_by_label("Filter", exact=True).fill("")
    page.locator("#filter-state").select_option("unowned")
    expect(rows).to_have_count(0)


@pytest.mark.usefixtures("resumed")
def test_what_needs_you_leads_to_the_rows_it_is_about(visit: Visiting, live: LiveGroup) -> None:
    pause(live.client, live.names, ["1", "3"], by="a test")
    page = visit().open("/partitions")
    page.locator("#attention-list [data-rule=paused] a").click()
    expect(page.locator("#partitions-table tbody tr[id]")).to_have_count(2)
    expect(page.locator("#filter-state")).to_have_value("paused")


def test_numbers_lead_to_the_stuck_key_and_to_the_traceback(visit: Visiting, live: LiveGroup, key: str) -> None:
    """From the overview to the cause of a stuck key in two clicks; from a new kind of failure to its traceback in one."""
    hold(live, key, text=f"why {key}")
    page = visit().open("/partitions")
    page.locator("#attention-list [data-rule=parked] a").filter(has_text="deliver").first.click()
    page.locator("#parked-keys").get_by_role("link", name=key, exact=True).click()
    expect(page.locator("#parked")).to_contain_text(f"why {key}")
    other = f"{key} of another"  # nothing of the held key becomes a dead letter of its own
    make_dead_letters(live, other, text=f"a new failure of {other}")
    page = visit().open("/partitions")
    page.locator("#attention-list [data-rule=dead-letters] a").first.click()
    expect(page.get_by_text("Traceback").first).to_be_visible()


def test_charts_are_full_at_first_sight_and_have_a_range(visit: Visiting, live: LiveGroup) -> None:
    wait_until(lambda: live.client.llen(live.names.history("0", "fine")) > 2, 60, message="no history")  # type: ignore[operator]
    page = visit().open("/partitions")
    expect(page.locator("#chart-flow polyline.line-done")).to_have_attribute("points", re.compile(r"\S+ \S+"))
    page.get_by_role("button", name="1 hour").click()
    expect(page.locator("#chart-flow")).to_contain_text("−45 min")
    expect(page.get_by_role("button", name="1 hour")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#chart-waiting polyline")).to_have_count(1)


def test_sinks_in_redis_show_what_workers_push(visit: Visiting, live: LiveGroup, key: str) -> None:
    before = read_pushed(live.client, live.names)
    send_many(live.installation, orders._receiver(), [Order(key, f"product {number % 3}") for number in range(30)], progress=False)
    for sink in ("sales", "checked orders"):
        wait_until(lambda sink=sink: read_pushed(live.client, live.names).get(sink, 0) >= before.get(sink, 0) + 30)
    assert live.client.llen("sales") >= 30
    row = visit().open("/partitions/ends").locator("tr[data-sink='sales']")
    expect(row).to_contain_text("RedisList")
    expect(row.locator("[data-field='per_second']")).to_have_text(re.compile("^[–0-9]"))
