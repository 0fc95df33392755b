"""What `control revoke` and `control revoke_by_stamped_headers` have revoked in this worker."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from celery_partitions.model.messages import details_of


class Revocations:
    """A container of revoked ids that also knows revoked stamps. Celery adds to `ids` and `stamps`."""

    def __init__(self, ids: Container[str], stamps: Mapping[str, Any]) -> None:
        self.ids, self.stamps = ids, stamps

    def __contains__(self, message_id: object) -> bool:
        return message_id in self.ids

    def __bool__(self) -> bool:
        return bool(self.ids or self.stamps)


def is_revoked(raw: bytes, message_id: str, revoked: Container[str]) -> bool:
    """Whether a message is revoked, by its id or, as in Celery, by one of its stamps."""
    if message_id in revoked:
        return True
    stamps = revoked.stamps if isinstance(revoked, Revocations) else None
    if not stamps:
        return False
    details = details_of(raw)
    if not isinstance(details.stamped_headers, list) or not isinstance(details.stamps, dict):
        return False
    return any(
        value in _listed(stamps[name])
        for name in details.stamped_headers
        if isinstance(name, str) and name in stamps
        for value in _listed(details.stamps.get(name))
    )


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple | set | frozenset) else [] if value is None else [value]
