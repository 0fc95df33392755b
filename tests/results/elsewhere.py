"""The tests' application, whose results lie where the variable `RESULTS_IN` says."""

from __future__ import annotations

import os

from tests.results.application import app

__all__ = ["app"]

if "RESULTS_IN" in os.environ:
    app.conf.result_backend = os.environ["RESULTS_IN"]
