"""Groups on any server, created as in the fault tests."""

from tests.faults.conftest import live, make_live

__all__ = ["live", "make_live"]
