"""The tests' application, with the result backend that the variable `RESULTS_IN` names."""

from __future__ import annotations

import os

from tests.results.application import app

__all__ = ["app"]

if "RESULTS_IN" in os.environ:
    app.conf.result_backend = os.environ["RESULTS_IN"]
