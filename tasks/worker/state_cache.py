"""The states that a worker keeps in memory while it holds a partition's lease."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from celery_partitions.model.items import Item, Work
from celery_partitions.model.outcome import Slot, Unreadable

Table = dict[str, "Slot | Unreadable"]


class StateCache:
    """States in memory while the lease is held, bounded by their number and their bytes, in two generations.

    A hit in the young generation costs nothing; a hit in the old one moves the state to the young one. When both together are full,
    or the young one has half of the bytes, the old one is dropped and the young one replaces it. So the least recently used states
    go first. Bytes are those of the stored state in Redis.
    """

    def __init__(self) -> None:
        self.young: dict[str, Table] = {}
        self._old: dict[str, Table] = {}
        self._has_unreadable = False
        #: How many states were read from Redis since this was last reset.
        self.missed = 0
        self._young_bytes = self._old_bytes = 0
        #: The bytes of the largest state seen; None before the first.
        self.largest: int | None = None

    def missing(self, items: Iterable[Item]) -> dict[str, list[str]]:
        """The keys of items whose state is not in memory, by computation name. States in memory are moved to `young`."""
        missing: dict[str, dict[str, None]] = {}
        tables: list[tuple[str, Table, Table]] = []
        current = None
        for item in items:
            if not isinstance(item, Work):
                continue
            if item.computation is not current:
                current = item.computation
                names = [stage.name for stage in current.stateful]
                tables = [(name, self.young.setdefault(name, {}), self._old.setdefault(name, {})) for name in names]
            key = item.key
            for name, young, old in tables:
                if key not in young:
                    slot = old.pop(key, None)
                    if slot is None:
                        missing.setdefault(name, {})[key] = None
                    else:
                        young[key] = slot
                        size = _bytes_of(slot)
                        self._young_bytes += size
                        self._old_bytes -= size
        return {name: list(keys) for name, keys in missing.items()}

    def add(self, loaded: Mapping[str, Table]) -> None:
        """Add states that were read from Redis."""
        for name, slots in loaded.items():
            self.young[name].update(slots)
            self.missed += len(slots)
            sizes = list(map(_bytes_of, slots.values()))
            self._young_bytes += sum(sizes)
            self.largest = max(self.largest or 0, max(sizes, default=0))
            self._has_unreadable = self._has_unreadable or any(type(slot) is Unreadable for slot in slots.values())

    def take(self, names: Iterable[str], key: str) -> dict[str, Table]:
        """Remove a key's states, by computation name, for a call outside the loop. They must be in `young`."""
        taken: dict[str, Table] = {}
        for name in names:
            slot = self.young[name].pop(key)
            self._young_bytes -= _bytes_of(slot)
            taken[name] = {key: slot}
        return taken

    def give_back(self, slots: Mapping[str, Table]) -> None:
        """Add states that `take` removed, as Redis has them now."""
        for name, table in slots.items():
            for key, slot in table.items():
                young, old = self.young.setdefault(name, {}), self._old.get(name, {})
                # A batch with a later message of the key may have read the state meanwhile.
                self._young_bytes += _bytes_of(slot) - (_bytes_of(young[key]) if key in young else 0)
                self._old_bytes -= _bytes_of(old.pop(key)) if key in old else 0
                young[key] = slot
                self._has_unreadable = self._has_unreadable or type(slot) is Unreadable

    def may_hold_unreadable(self, so: bool) -> None:
        """Note whether the step may have found a loaded state to be unreadable."""
        self._has_unreadable = self._has_unreadable or so

    def committed(self, states: Mapping[str, Mapping[str, bytes]]) -> None:
        """Record the states that a commit wrote."""
        for name, changed in states.items():
            table = self.young.get(name, {})  # empty: the cache was dropped meanwhile, because an operator changed something
            for key, stored in changed.items():
                slot = table.get(key)
                if type(slot) is Slot:
                    self._young_bytes += len(stored) - _bytes_of(slot)
                    slot.stored = stored or None
                    if self.largest is None or len(stored) > self.largest:
                        self.largest = len(stored)

    def fitting(self, items: Sequence[Item], sizes: Mapping[str, Mapping[str, int]], limit: int) -> int:
        """How many of the first items have states of at most `limit` bytes in total; at least one.

        `sizes`: the bytes of states that are not in memory, by computation name and key.
        """
        met: set[tuple[str, str]] = set()
        for count, item in enumerate(items):
            if not isinstance(item, Work):
                continue
            for stage in item.computation.stateful:
                place = stage.name, item.key
                if place not in met:
                    met.add(place)
                    slot = self.young.get(stage.name, {}).get(item.key)
                    limit -= sizes.get(stage.name, {}).get(item.key, 0) if slot is None else _bytes_of(slot)
            if limit < 0 and count:
                return count
        return len(items)

    def trim(self, limit: int, max_bytes: int) -> None:
        """After a commit: keep about `limit` states with at most `max_bytes` in total. Drop unreadable ones: they may be repaired."""
        if self._has_unreadable:
            for table in self.young.values():
                for key in [key for key, slot in table.items() if type(slot) is Unreadable]:
                    del table[key]
            self._has_unreadable = False
        count = sum(map(len, self.young.values())) + sum(map(len, self._old.values()))
        if count > limit or self._young_bytes * 2 > max_bytes:
            self._old, self.young = self.young, {}
            self._old_bytes, self._young_bytes = self._young_bytes, 0
            if self._old_bytes > max_bytes:
                self._old, self._old_bytes = {}, 0


def _bytes_of(slot: Slot | Unreadable) -> int:
    return len(slot.stored) if type(slot) is Slot and slot.stored is not None else 0
