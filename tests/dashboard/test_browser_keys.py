"""The key page in a browser: find a key, show, edit and delete its state; retry, skip or discard its parked message."""

from __future__ import annotations

import base64
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from celery_partitions.model.timers import Entries, TimerEntry
from tests.dashboard.conftest import LOGIN, Visiting
from tests.dashboard.trouble import account, balance, dead_letters_of, hold, partition_of_queue, wait_balance
from tests.fundamentals.live import LiveGroup
from tests.support.applications.accounts import Account, Payment, deliver, pay
from tests.support.browser import PHONE

ME = LOGIN.partition(":")[0]


def page_of(key: str) -> str:
    return f"/partitions/key?key={quote(key, safe='')}"


def paid(live: LiveGroup, key: str, *notes: str) -> None:
    """Give a key a balance of 10 per note."""
    live.send(pay, [Payment(key, 10, note) for note in notes])
    wait_balance(live, pay, key, 10 * len(notes))


def start_editing(page: Page, text: str) -> None:
    page.get_by_role("button", name="Edit the state in pay").click()
    page.get_by_label("The state as JSON").fill(text)
    page.get_by_role("button", name="Review").click()


def test_a_key_is_found_and_its_state_is_a_tree(visit: Visiting, live: LiveGroup, key: str) -> None:
    paid(live, key, "rent", "bread")
    page = visit().open("/partitions")
    page.get_by_label("Key", exact=True).fill(key)
    page.get_by_role("button", name="Find key").click()
    expect(page.get_by_role("heading", name=key)).to_be_visible()
    expect(page.get_by_role("link", name=f"partition.{partition_of_queue(live, key)}", exact=True)).to_be_visible()
    tree = page.get_by_role("region", name="State in pay")
    for words in ("state Account", "balance int 20", "owner Owner", "emails list", "notes list, 2", "1 str 'bread'"):
        expect(tree).to_contain_text(words, use_inner_text=True)
    notes = tree.locator("summary", has_text="notes")
    notes.click()
    expect(tree.get_by_text("bread")).to_be_hidden()


def test_an_id_is_copied_with_a_click(visit: Visiting, live: LiveGroup, key: str) -> None:
    hold(live, key)
    one = visit()
    one.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = one.open(page_of(key))
    id_of = page.locator("#parked-messages button.copy-id").first
    text = id_of.inner_text()
    id_of.click()
    expect(page.get_by_role("status").filter(has_text=f"copied: {text}")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == text


def test_the_timeline_shows_commits_and_operators(visit: Visiting, live: LiveGroup, key: str) -> None:
    paid(live, key, "rent", "bread")
    page = visit(size=PHONE).open(page_of(key))
    timeline = page.get_by_role("list", name="Timeline, newest first")
    expect(timeline).to_contain_text("applied pay")
    expect(timeline).to_contain_text("@dashboard · commit")
    expect(timeline).to_contain_text("pay.balance: null → ")
    start_editing(page, '{"balance": 7}')
    page.get_by_role("button", name="Set state").click()
    expect(timeline.locator("li").first).to_contain_text("state set")
    expect(timeline.locator("li").first).to_contain_text("pay.balance: 20 → 7")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_key_that_is_not_text_is_found_by_base64(visit: Visiting) -> None:
    page = visit().open("/partitions")
    given = base64.b64encode(b"\xff\x00key").decode()
    page.get_by_label("Key", exact=True).fill(given)
    page.get_by_label("base64").check()
    page.get_by_role("button", name="Find key").click()
    expect(page.locator("#key-meta")).to_contain_text(given)
    expect(page.locator("#no-state")).to_be_visible()


def test_a_state_is_edited_reviewed_and_audited(visit: Visiting, live: LiveGroup, key: str) -> None:
    paid(live, key, "rent")
    page = visit().open(page_of(key))
    page.get_by_role("button", name="Edit the state in pay").click()
    page.get_by_label("The state as JSON").fill('{"balance": 5000}')
    page.get_by_role("button", name="Review").click()
    expect(page.locator("#edit-old")).to_contain_text('"balance": 10,')
    expect(page.locator("#edit-new")).to_contain_text('"balance": 5000,')
    assert balance(live, pay, key) == 10, "it was set without a confirmation"
    page.get_by_role("button", name="Set state").click()
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.get_by_role("region", name="State in pay")).to_contain_text("5000")
    found = account(live, pay, key)
    assert found is not None
    assert (found.balance, found.notes) == (5000, ["rent"])
    (record,) = live.group.audit.last(1)
    assert (record.who, record.detail["key"]) == (ME, key)
    live.send(pay, [Payment(key, 1)])
    wait_balance(live, pay, key, 5001)


def test_a_timer_is_cancelled(visit: Visiting, live: LiveGroup, key: str) -> None:
    due = 4_000_000_000_000
    record = live.group.codec.dump(pay.computation, key, Account(), Entries({"bell": TimerEntry(due, due), "digest": TimerEntry(due, due)}))
    live.client.hset(live.names.states(str(partition_of_queue(live, key)), "pay"), key, record)  # type: ignore[arg-type]
    page = visit(size=PHONE).open(page_of(key))
    page.get_by_role("button", name="Cancel the timer bell in pay").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text(f"Cancel the timer bell of {key} in pay?")
    dialog.get_by_role("button", name="Cancel the timer").click()
    expect(dialog).to_be_hidden()
    expect(page.get_by_role("button", name="Cancel the timer bell in pay")).to_be_hidden()
    expect(page.get_by_role("button", name="Cancel the timer digest in pay")).to_be_visible()
    (record_of_it,) = live.group.audit.last(1)
    assert (record_of_it.who, record_of_it.what, record_of_it.detail["timer"]) == (ME, "cancel timer", "bell")


def test_a_value_that_does_not_fit_the_class_is_refused_with_its_path(visit: Visiting, live: LiveGroup, key: str) -> None:
    paid(live, key, "rent")
    one = visit()
    one.expect_complaint("400")
    page = one.open(page_of(key))
    start_editing(page, '{"balance": "much"}')
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("$.balance")
    assert balance(live, pay, key) == 10


def test_a_stale_edit_is_refused(visit: Visiting, live: LiveGroup, key: str) -> None:
    paid(live, key, "rent")
    one = visit()
    one.expect_complaint("409")
    page = one.open(page_of(key))
    start_editing(page, '{"balance": 5000}')
    expect(page.locator("#edit-new")).to_contain_text("5000")
    live.send(pay, [Payment(key, 1)])
    wait_balance(live, pay, key, 11)
    page.get_by_role("button", name="Set state").click()
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("changed meanwhile")
    assert balance(live, pay, key) == 11


def test_the_focus_and_open_folds_are_kept_when_the_page_refreshes(visit: Visiting, live: LiveGroup, key: str) -> None:
    paid(live, key, "rent")
    page = visit().open(page_of(key))
    tree = page.get_by_role("region", name="State in pay")
    tree.locator("summary", has_text="notes").click()
    tree.locator("summary", has_text="owner").focus()
    live.send(pay, [Payment(key, 1)])
    expect(tree).to_contain_text("balance int 11", use_inner_text=True)
    expect(tree.locator("summary", has_text="owner")).to_be_focused()
    expect(tree.get_by_text("rent")).to_be_hidden()


def test_a_state_is_deleted(visit: Visiting, live: LiveGroup, key: str) -> None:
    paid(live, key, "rent")
    page = visit().open(page_of(key))
    page.get_by_role("button", name="Delete the state in pay").click()
    expect(page.get_by_role("dialog")).to_contain_text(key)
    page.get_by_role("button", name="Cancel").click()
    assert balance(live, pay, key) == 10, "it was deleted without a confirmation"
    page.get_by_role("button", name="Delete the state in pay").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.locator("#no-state")).to_be_visible()
    assert account(live, pay, key) is None


@pytest.mark.parametrize(
    ("action", "yes", "left", "dead_letters"), [("Retry", None, 8, 0), ("Skip", "Skip", 1, 1), ("Discard", "Delete", 1, 0)]
)
def test_a_parked_message(
    visit: Visiting, live: LiveGroup, key: str, action: str, yes: str | None, left: int, dead_letters: int
) -> None:
    """Retried: applied in place. Skipped: a dead letter. Discarded: gone. The key continues."""
    hold(live, key)
    page = visit().open(page_of(key))
    parked = page.get_by_role("region", name="Parked messages")
    expect(parked).to_contain_text("the bank is closed")
    parked.get_by_role("button", name=f"{action} {key}").click()
    if yes is not None:
        page.get_by_role("dialog").get_by_role("button", name=yes, exact=True).click()
    wait_balance(live, deliver, key, left)
    page.evaluate("window.partitions.refresh()")
    expect(parked).to_have_count(0)
    expect(page.get_by_role("region", name="State in deliver")).to_contain_text(f"balance int {left}", use_inner_text=True)
    assert len(dead_letters_of(live, key)) == dead_letters
