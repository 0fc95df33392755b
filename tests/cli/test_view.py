"""What each key does in `partitions top`."""

from __future__ import annotations

from celery_partitions.cli.view import View

NAMES = ["one", "two", "three"]


def pressed(*keys: str, view: View | None = None) -> View | None:
    view = view or View()
    for key in keys:
        found = view.press(key, NAMES)
        if found is None:
            return None
        view = found
    return view


def test_keys_choose_and_open_a_row() -> None:
    assert pressed("down") == pressed("down", "up") == View(chosen="one")
    assert pressed("up") == pressed("down", "down", "down", "down") == View(chosen="three")
    assert pressed("open") == View(chosen="one", is_open=True)
    assert pressed("down", "down", "open", "down") == View(chosen="three", is_open=True)
    assert pressed("open", "back") == View(chosen="one")
    assert pressed("open", "back", "back") == View()
    assert pressed("down", view=View(chosen="gone")) == View(chosen="one")
    assert View().press("down", []) == View().press("open", []) == View()


def test_keys_sort_change_the_rows_and_end() -> None:
    sorts = [view.sort for number in range(1, 6) if (view := pressed(*["s"] * number))]
    assert sorts == ["backlog", "rate", "oldest", "name", "backlog"]
    assert pressed("down", "s", "c") == View("computation", "backlog")
    assert pressed("c", "c") == View()
    assert pressed("q") is None
    assert pressed("x") == View()
