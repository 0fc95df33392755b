"""The audit: who did what and when, with the old and the new value. A bounded stream in Redis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import msgspec
import redis

from celery_partitions.admin.state_json import plain_value
from celery_partitions.model.errors import encodable
from celery_partitions.store.names import Names

#: Older records are deleted. A record takes some hundred bytes, so the audit takes a megabyte or two.
MAX_RECORDS = 10_000
#: The longest JSON of one value in a record. A longer one is cut and ends with "…".
MAX_VALUE_CHARACTERS = 20_000


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One action of an operator."""

    #: Seconds since the epoch, by the server's clock.
    at: float
    who: str
    what: str
    detail: dict[str, Any]


class Audit:
    """The audit of a group. A script that changes something writes the record itself, from `words`; without a script use `add`."""

    def __init__(self, client: redis.Redis, names: Names) -> None:
        self.client, self.names = client, names

    def words(self, who: str, what: str, detail: dict[str, Any]) -> list[Any]:
        """The last ARGV of a script that writes its own record: how many records to keep, who, what, detail."""
        return [MAX_RECORDS, encodable(who), what, msgspec.json.encode(detail)]

    def add(self, client: redis.Redis, who: str, what: str, detail: dict[str, Any]) -> None:
        """Write a record. `client` may be a MULTI pipeline that also makes the change."""
        limit, *values = self.words(who, what, detail)
        fields: Any = dict(zip(("who", "what", "detail"), values, strict=True))
        client.xadd(self.names.audit, fields, maxlen=limit, approximate=True)

    def last(self, limit: int) -> list[AuditRecord]:
        """The last records, newest first."""
        with self.client.pipeline(transaction=False) as pipe:
            for stream in self._streams():
                pipe.xrevrange(stream, count=limit)
            answers = pipe.execute()
        found = [_read(entry.decode(), fields) for rows in answers for entry, fields in cast(list[Any], rows)]
        return sorted(found, key=lambda record: record.at, reverse=True)[:limit] if len(answers) > 1 else found

    def _streams(self) -> list[str]:
        """Where the records are: in one stream, or on several servers in one for each partition, too."""
        if not self.names.is_spread:
            return [self.names.audit]
        number = int(cast("bytes | None", self.client.hget(self.names.group_meta, "partitions")) or 0)
        return [self.names.audit, *(self.names.audit_of(str(one)) for one in range(number))]


def shortened(value: Any) -> Any:
    """The value in the form that a record keeps: plain values, or the beginning of their JSON if it is too long."""
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
