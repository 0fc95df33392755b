"""Every page in a browser: text is shown as text; the page fits a phone and a desktop, light and dark, and works with the keyboard alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from tests.dashboard.conftest import Visiting
from tests.dashboard.trouble import hold, make_dead_letters, partition_of_queue, wait_balance
from tests.fundamentals.live import LiveGroup
from tests.support.applications.accounts import Payment, pay
from tests.support.browser import DESK, PHONE, left_out_of_the_keyboard, wider_than_the_window

#: If any of it were interpreted as markup or script, it would set `window.hacked`.
HOSTILE = """<img src=x onerror="window.hacked=1">"'></script><script>window.hacked=2</script>{{ 7*7 }}\u202e"""
#: A key that is one long word, without a place to wrap.
LONG = "account-" + "x" * 120

PAGES = [
    "overview", "partition", "key", "held", "dead_letters", "find",
    "parked", "computations", "computation", "workers", "versions", "keys", "audit", "ends", "sink", "sink_dead_letters",
]  # fmt: skip


@pytest.fixture(scope="module")
def shown(live: LiveGroup) -> Iterator[dict[str, str]]:
    """The pages by name, each with content: hostile and long text, held keys, dead letters."""
    live.send(pay, [Payment(HOSTILE, 10, HOSTILE), Payment(LONG, 10, "x" * 300)])
    live.send(pay, [Payment(f"account {number}", number) for number in range(300)])
    make_dead_letters(live, HOSTILE, LONG, *(f"account {number}" for number in range(5)), text=HOSTILE, note=HOSTILE)
    hold(live, HOSTILE + "held", text=HOSTILE)
    wait_balance(live, pay, HOSTILE, 10)
    yield {
        "overview": "/partitions",
        "partition": f"/partition/{partition_of_queue(live, HOSTILE)}",
        "key": "/partitions/key?key=" + quote(HOSTILE, safe=""),
        "held": "/partitions/key?key=" + quote(HOSTILE + "held", safe=""),
        "dead_letters": "/partitions/dead-letters",
        "find": "/partitions/key",
        "parked": "/partitions/parked",
        "computations": "/partitions/computations",
        "computation": "/partitions/computation?name=pay",
        "workers": "/partitions/workers",
        "versions": "/partitions/versions",
        "keys": "/partitions/keys?computation=pay&prefix=" + quote(HOSTILE[:3], safe=""),
        "audit": "/partitions/audit",
        "ends": "/partitions/ends",
        "sink": "/partition/0?sink=warehouse",
        "sink_dead_letters": "/partitions/dead-letters?sink=warehouse",
    }


def settle(page: Page) -> None:
    """Wait for the live rows, and open all folds."""
    if page.locator("#overview").count():
        expect(page.locator("#live-status")).to_have_text("Live")
        expect(page.locator("#partitions-table tbody tr")).to_have_count(5)
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_sound(visit: Visiting, shown: dict[str, str], name: str) -> None:
    """On a desktop and on a dark phone, hostile text is shown as text, the page does not scroll sideways, Tab reaches every control, and
    axe finds nothing serious."""
    for size_name, size in (("desk", DESK), ("phone", PHONE)):
        one = visit(size=size, dark=size is PHONE)
        page = one.open(shown[name])
        settle(page)
        assert page.evaluate("window.hacked") is None
        if name == "overview":
            assert not cut_off(page, "#partitions-table"), size_name
        if name in ("key", "held", "dead_letters", "parked", "keys"):
            expect(page.get_by_text(HOSTILE).first).to_be_attached()
        assert wider_than_the_window(page) == [], size_name
        one.screenshot(f"{name}-{size_name}")
        if size is DESK:
            assert left_out_of_the_keyboard(page) == []
            assert page.locator("h1").count() == 1
        assert serious(page) == [], size_name


def test_hostile_text_in_a_dialog_and_in_the_message_after_it(visit: Visiting, shown: dict[str, str]) -> None:
    one = visit()
    page = one.open(shown["key"])
    page.get_by_role("button", name="Edit the state in pay").click()
    page.get_by_role("button", name="Review").click()
    expect(page.locator("#edit-old")).to_contain_text("onerror=")
    expect(page.locator("#edit-old")).to_contain_text("\\u202e")
    one.screenshot("edit-desk")
    page.get_by_role("button", name="Set state").click()
    expect(page.get_by_role("status").filter(has_text="set")).to_be_visible()
    page.get_by_role("button", name="Delete the state in pay").click()
    expect(page.get_by_role("dialog")).to_contain_text("\\u202e in pay? The key")
    one.screenshot("confirm-desk")
    assert page.evaluate("window.hacked") is None


def test_a_dialog_with_the_keyboard_alone(visit: Visiting, live: LiveGroup, key: str) -> None:
    """A dialog opens by Enter, keeps the focus inside, is closed by Escape with nothing done, and gives the focus back."""
    live.send(pay, [Payment(key, 10)])
    wait_balance(live, pay, key, 10)
    page = visit().open(f"/partitions/key?key={key}")
    for name in ("Edit the state in pay", "Delete the state in pay"):
        opener = page.get_by_role("button", name=name)
        opener.focus()
        page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog")
        expect(dialog).to_be_visible()
        for _ in range(6):
            page.keyboard.press("Tab")
            assert page.evaluate("!document.hasFocus() || document.activeElement === document.body || !!document.activeElement.closest('dialog')")
        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()
        expect(opener).to_be_focused()
    wait_balance(live, pay, key, 10)
    page.get_by_label("Key", exact=True).focus()
    page.keyboard.type("account 1")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="account 1")).to_be_visible()


def test_a_page_that_cannot_be_read_says_how_old_it_is_and_allows_no_action(visit: Visiting) -> None:
    one = visit()
    one.expect_complaint("ERR_INTERNET_DISCONNECTED")
    page = one.open("/partition/1")
    pause = page.get_by_role("button", name="Pause", exact=True)
    expect(pause).to_be_enabled()
    expect(page.locator("#commits-region time").first).to_have_attribute("title", re.compile(r"\d"))
    one.context.set_offline(True)
    expect(page.get_by_role("alert").filter(has_text=re.compile(r"What this page shows is \S+ s old"))).to_be_visible()
    expect(pause).to_be_disabled()
    one.context.set_offline(False)
    expect(page.locator("#looked-in-vain")).to_be_hidden()
    expect(pause).to_be_enabled()


@pytest.mark.parametrize("path", ["/workers", "/tasks", "/broker"])
def test_flowers_own_pages_are_unchanged(visit: Visiting, path: str) -> None:
    page = visit().open(path)
    expect(page.get_by_role("link", name="Partitions", exact=True)).to_be_visible()
    expect(page.locator("#partitions-page")).to_have_count(0)


def test_the_overview_fits_a_tablet(visit: Visiting, shown: dict[str, str]) -> None:
    page = visit(size={"width": 768, "height": 900}).open(shown["overview"])
    settle(page)
    assert not cut_off(page, "#partitions-table")


def serious(page: Page) -> list[str]:
    """What axe-core finds on our part of the page that is serious or critical: the rule, and the first element."""
    source = resources.files(pytest.importorskip("axe_playwright_python")).joinpath("axe.min.js").read_text()
    page.evaluate(source)
    found = page.evaluate("async () => (await axe.run('#partitions-page')).violations")
    return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found if one["impact"] in ("serious", "critical")]


def cut_off(page: Page, table: str) -> bool:
    """Whether a table is wider than its box and must be scrolled."""
    found: bool = page.locator(table).evaluate("(one) => one.scrollWidth > one.parentElement.clientWidth")
    return found
