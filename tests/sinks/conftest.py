"""Workers and sinks of `tests.support.applications.ends`."""

from tests.sources.conftest import make_ends

__all__ = ["make_ends"]
