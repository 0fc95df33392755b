"""The dead-letter page and the partition page in a browser: groups, search; retry and discard one, a group or all."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from celery_partitions.admin.wording import retry_dead_letters
from tests.dashboard.conftest import Visiting
from tests.dashboard.trouble import (
    balance,
    broken,
    dead_letters_of,
    hold,
    make_dead_letters,
    partition_of_queue,
    wait_balance,
)
from tests.fundamentals.live import LiveGroup
from tests.support.applications.accounts import Payment, deliver, pay
from tests.support.wait import wait_until


def search(page: Page, text: str) -> None:
    page.get_by_label("Text").fill(text)
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_label("Text")).to_have_value(text)


def look_again(page: Page) -> None:
    """Refresh the page, as it does itself every few seconds."""
    page.evaluate("window.partitions.refresh()")


def agree(page: Page, yes: str) -> None:
    page.get_by_role("dialog").get_by_role("button", name=yes, exact=True).click()


def test_one_is_found_by_its_key_and_retried_and_applied(visit: Visiting, live: LiveGroup, key: str) -> None:
    (dead_letter,) = make_dead_letters(live, key)
    page = visit().open("/partitions/dead-letters")
    search(page, key)
    expect(page.locator("#dead-letters-count")).to_contain_text("1 found of")
    article = page.locator("article.dead-letter")
    expect(article).to_contain_text("the bank is closed")
    article.get_by_text("Traceback", exact=True).click()
    expect(article.get_by_text("in _apply")).to_be_visible()
    article.get_by_text("Message", exact=True).click()
    expect(article.get_by_text('"may_fail": true').or_(article.get_by_text("may_fail")).first).to_be_visible()
    article.get_by_role("button", name=re.compile("^Retry ")).click()
    wait_balance(live, pay, key, 7)
    expect(page.locator("#no-dead-letters")).to_be_visible()
    assert dead_letter.message_id not in {one.message_id for one in live.dead_letters()}


def test_one_is_found_by_its_id_and_by_the_text_of_its_error(visit: Visiting, live: LiveGroup, key: str) -> None:
    (dead_letter,) = make_dead_letters(live, key, text=f"no money for {key}!")
    page = visit().open("/partitions/dead-letters")
    for text in (dead_letter.message_id, f"no money for {key}!"):
        search(page, str(text))
        expect(page.locator("article.dead-letter")).to_have_count(1)


def test_a_group_is_retried_and_others_are_not(visit: Visiting, live: LiveGroup, key: str) -> None:
    """A group: failures in the same place of the same computation."""
    ours, theirs = [f"{key}-a", f"{key}-b", f"{key}-c"], f"{key}-d"
    make_dead_letters(live, *ours)
    hold(live, theirs)
    page = visit().open(f"/partitions/dead-letters?q={key}-")
    expect(page.locator("#dead-letters-count")).to_contain_text("4 found of")
    group = page.locator("section[data-fingerprint]").filter(has_text=" pay:")
    group.locator("summary").first.click()
    group.get_by_role("button", name=re.compile("^Retry 3 dead letters of the group")).click()
    agree(page, "Retry")
    for one in ours:
        wait_balance(live, pay, one, 7)
    retry = page.locator("#retries li").first
    expect(retry).to_contain_text("3 of 3 retried · 0 failed again")
    assert [one.key for one in dead_letters_of(live, *ours, theirs)] == [theirs]
    assert balance(live, deliver, theirs) == 0


def test_it_shows_how_many_of_a_retry_failed_again(visit: Visiting, live: LiveGroup, key: str) -> None:
    ours = [f"{key}-{number}" for number in range(4)]
    page = visit().open("/partitions/dead-letters")
    made = make_dead_letters(live, *ours)
    with broken(live, "still closed"):
        retry_dead_letters(live.group.dead_letters, made, {"ids": 4}, by="eve@laptop")
        wait_until(lambda: len(found := dead_letters_of(live, *ours)) == 4 and not {one.id for one in found} & {one.id for one in made})
    look_again(page)
    expect(page.locator("#retries li").first).to_contain_text("4 of 4 retried · 4 failed again · ids 4 · by eve@laptop")


def test_all_found_dead_letters_are_discarded(visit: Visiting, live: LiveGroup, key: str) -> None:
    keys = [f"{key}-a", f"{key}-b"]
    make_dead_letters(live, *keys)
    make_dead_letters(live, "another-account")
    page = visit().open(f"/partitions/dead-letters?q={key}-")
    page.get_by_role("button", name="Discard all dead letters found").click()
    agree(page, "Delete")
    expect(page.locator("#no-dead-letters")).to_be_visible()
    assert dead_letters_of(live, *keys) == []
    assert dead_letters_of(live, "another-account") != []
    assert balance(live, pay, keys[0]) == 0


def test_a_partition_shows_its_keys_and_lets_them_continue(visit: Visiting, live: LiveGroup, key: str) -> None:
    partition = partition_of_queue(live, key)
    hold(live, key)
    page = visit().open("/partitions")
    page.get_by_role("link", name=f"partition.{partition}", exact=True).click()
    row = page.locator("#parked-keys tbody tr").filter(has_text=key)
    expect(row).to_contain_text("held until you act")
    row.get_by_role("button", name=f"Retry {key}").click()
    wait_balance(live, deliver, key, 8)
    look_again(page)
    expect(row).to_have_count(0)
    expect(page.locator("#largest")).to_contain_text("account")
    expect(page.locator("#tasks-seen")).to_contain_text(re.compile("pay|deliver"))
    expect(page.locator("#commits tbody tr").first).to_contain_text(re.compile("processed|failed"))


@pytest.mark.usefixtures("resumed")
def test_a_paused_partition_shows_its_waiting_messages_and_is_resumed(visit: Visiting, live: LiveGroup, key: str) -> None:
    partition = partition_of_queue(live, key)
    page = visit().open(f"/partition/{partition}")
    page.get_by_role("button", name="Pause", exact=True).click()
    expect(page.locator("#partition-meta")).to_contain_text("paused")
    live.send(pay, [Payment(key, number, note=f"note {number}") for number in (1, 2)])
    look_again(page)
    expect(page.locator("#messages tbody tr").filter(has_text=key)).to_have_count(2)
    expect(page.locator("#hottest")).to_contain_text(key)
    assert balance(live, pay, key) == 0
    page.get_by_role("button", name="Resume", exact=True).click()
    wait_until(lambda: balance(live, pay, key) == 3)
    expect(page.get_by_role("button", name="Pause", exact=True)).to_be_visible()
