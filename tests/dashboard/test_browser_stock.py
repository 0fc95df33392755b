"""Flower's own pages, with ours beside them, as they were: nothing breaks there."""

from __future__ import annotations

import pytest

from tests.dashboard.conftest import Visiting


@pytest.mark.parametrize("path", ["/workers", "/tasks", "/broker", "/worker/one@dashboard"])
def test_they_load_without_a_complaint(visit: Visiting, path: str) -> None:
    one = visit()
    page = one.open(path)
    page.wait_for_timeout(500)
    one.screenshot("x"+path.replace("/","_"))
    assert page.locator("nav.app-navbar").is_visible()
