"""Finds messages that were sent twice with the same id: by the ids seen before, and within the batch. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from hashlib import blake2b

from celery_partitions.model.items import Item, Skipped, Work

#: A longer id is remembered by its hash, so that memory is bounded whatever producers send. A UUID has 36 characters.
LONGEST_ID_BYTES = 40
HASH_BYTES = 16


def normalize_id(message_id: str) -> bytes:
    """The bytes by which a message id is remembered. The first byte distinguishes an id from a hash."""
    encoded = message_id.encode("utf-8", "surrogatepass")
    if len(encoded) <= LONGEST_ID_BYTES:
        return b"=" + encoded
    return b"#" + blake2b(encoded, digest_size=HASH_BYTES).digest()


def ids_to_look_for(items: Iterable[Item]) -> dict[str, list[str]]:
    """The ids of messages whose computation has deduplication, by computation name."""
    wanted: dict[str, list[str]] = {}
    for item in items:
        if isinstance(item, Work) and item.computation.deduplicate_seconds is not None:
            wanted.setdefault(item.computation.name, []).append(item.envelope.headers.id)
    return wanted


def drop_duplicates(items: Iterable[Item], seen: Mapping[str, Container[str]]) -> list[Item]:
    """The items, with duplicates replaced by `Skipped`: messages whose id was seen before, or appears earlier in the batch."""
    now: dict[str, set[str]] = {name: set() for name in seen}
    kept: list[Item] = []
    for item in items:
        if isinstance(item, Work) and item.computation.deduplicate_seconds is not None:
            name, message_id = item.computation.name, item.envelope.headers.id
            if message_id in seen[name] or message_id in now[name]:
                kept.append(Skipped(item.raw, item.envelope.headers, "duplicate"))
                continue
            now[name].add(message_id)
        kept.append(item)
    return kept


def ids_to_remember(taken: Sequence[Item], dead: Container[bytes]) -> dict[str, list[str]]:
    """The ids that the commit of these items must remember. `dead`: raw messages that became dead letters; these may be sent again, so
    their ids are not remembered."""
    return ids_to_look_for(item for item in taken if item.raw not in dead)
