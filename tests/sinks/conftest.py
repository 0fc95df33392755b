"""Workers and sinks of `tests.support.applications.ends`."""

from tests.producer.conftest import make_app
from tests.sources.conftest import make_ends

__all__ = ["make_app", "make_ends"]
