"""Groups on servers of the test's choice, as the fault tests make them."""

from tests.faults.conftest import live, make_live

__all__ = ["live", "make_live"]
