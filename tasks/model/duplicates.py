"""Messages that a producer sent twice under one id: found by the ids seen before, and within the batch. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from hashlib import blake2b

from tasks.model.reading import Item, Skipped, Work

#: Of a message id, so much is remembered: two of a billion ids share one with a probability of 10⁻¹¹.
DIGEST_BYTES = 12


def digest_of(message_id: str) -> bytes:
    """What is remembered of a message id."""
    return blake2b(message_id.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()


def ids_to_look_for(items: Iterable[Item]) -> dict[str, list[bytes]]:
    """Digests of the ids of messages whose computation wants duplicates dropped, by computation name."""
    wanted: dict[str, list[bytes]] = {}
    for item in items:
        if type(item) is Work and item.computation.deduplicate_seconds is not None:
            wanted.setdefault(item.computation.name, []).append(digest_of(item.envelope.headers.id))
    return wanted


def drop_duplicates(items: Iterable[Item], seen: Mapping[str, Container[bytes]]) -> list[Item]:
    """The items, with each message whose id was seen, or stands in the batch before it, skipped."""
    now: set[tuple[str, bytes]] = set()
    kept: list[Item] = []
    for item in items:
        if type(item) is Work and item.computation.deduplicate_seconds is not None:
            name, digest = item.computation.name, digest_of(item.envelope.headers.id)
            if digest in seen.get(name, ()) or (name, digest) in now:
                kept.append(Skipped(item.raw, item.envelope.headers, "duplicate"))
                continue
            now.add((name, digest))
        kept.append(item)
    return kept


def ids_to_remember(taken: Sequence[Item], dead: Container[bytes]) -> dict[str, list[bytes]]:
    """Digests of the ids that the commit of these items makes seen. `dead`: raw messages that became dead letters; those may
    be sent again."""
    return ids_to_look_for(item for item in taken if type(item) is Work and item.raw not in dead)
