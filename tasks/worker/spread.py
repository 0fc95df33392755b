"""Refuses what does not work yet where the partitions are on several servers (`PARTITIONS_URL`)."""

from __future__ import annotations

from celery_partitions.model.errors import SetupError
from celery_partitions.runtime.installation import Installation


def refuse_what_needs_one_server(installation: Installation) -> None:
    """Raise `SetupError` for declarations whose commits would need two servers: pipelines, and computations with reply=True."""
    if not installation.settings.partitions_url:
        return
    for name, computation in installation.computations.items():
        if computation.replies or computation.role in ("source", "stage"):
            what = "is declared with reply=True" if computation.replies else "belongs to a pipeline"
            raise SetupError(f"{name!r} {what}, which does not work with PARTITIONS_URL yet. Remove it, or unset PARTITIONS_URL to use one server")
