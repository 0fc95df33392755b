"""The record of what operators did: who, when, what, and what was there before and after. A bounded stream in Redis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import msgspec
import redis

from celery_partitions.admin.state_json import plain_value
from celery_partitions.model.errors import encodable
from celery_partitions.store.names import Names

#: Older records go; at some hundred bytes each, a megabyte or two.
MAX_RECORDS = 10_000
#: Of one value in a record, characters of its JSON; a longer one is cut, and says so.
MAX_VALUE_CHARACTERS = 20_000


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One thing that an operator did."""

    #: Seconds since the epoch, by the server's clock.
    at: float
    who: str
    what: str
    detail: dict[str, Any]


class Audit:
    """The audit of a group. `words` makes the end of a script's ARGV; `add` writes where there is no script."""

    def __init__(self, client: redis.Redis, names: Names) -> None:
        self.client, self.names = client, names

    def words(self, who: str, what: str, detail: dict[str, Any]) -> list[Any]:
        """How many records to keep, who, what, detail: the arguments of a script that writes its own record."""
        return [MAX_RECORDS, encodable(who), what, msgspec.json.encode(detail)]

    def add(self, client: redis.Redis, who: str, what: str, detail: dict[str, Any]) -> None:
        """Write a record; `client` may be a MULTI pipeline that does the thing too."""
        limit, *values = self.words(who, what, detail)
        fields: Any = dict(zip(("who", "what", "detail"), values, strict=True))
        client.xadd(self.names.audit, fields, maxlen=limit, approximate=True)

    def last(self, limit: int) -> list[AuditRecord]:
        """The last records, newest first."""
        rows = cast(list[Any], self.client.xrevrange(self.names.audit, count=limit))
        return [_read(entry.decode(), fields) for entry, fields in rows]


def shortened(value: Any) -> Any:
    """A value as a record keeps it: plain and whole, or the beginning of its JSON."""
    plain = plain_value(value)
    text = msgspec.json.encode(plain).decode()
    return plain if len(text) <= MAX_VALUE_CHARACTERS else text[:MAX_VALUE_CHARACTERS] + "…"


def _read(entry: str, fields: dict[bytes, bytes]) -> AuditRecord:
    try:
        detail = msgspec.json.decode(fields[b"detail"], type=dict[str, Any])
    except (KeyError, msgspec.DecodeError):  # not written by us
        detail = {}
    return AuditRecord(
        int(entry.partition("-")[0]) / 1000,
        fields.get(b"who", b"").decode("utf-8", "backslashreplace"),
        fields.get(b"what", b"").decode("utf-8", "backslashreplace"),
        detail,
    )
