"""The history check: compares the states with what was sent, key by key.

A computation under test appends the number of each message to the state of its key, so the state *is* the
history of its key. Send numbers that are unique across all keys (`numbered`): then a message that was applied to
another key's state is recognized.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count, pairwise, zip_longest
from typing import Literal

Numbers = Mapping[str, Sequence[int]]
Kind = Literal["loss", "duplicate", "reorder", "foreign"]

#: How many numbers an error shows before and after the faulty one.
CONTEXT = 3


class HistoryError(AssertionError):
    """A key's history is not what was sent to it.

    `index` is the position of `number` in what was sent (for a loss) or in what was applied (for all others).
    """

    def __init__(self, kind: Kind, key: str, index: int, number: int, detail: str) -> None:
        super().__init__(f"{kind} at key {key!r}, index {index}: {number} {detail}")
        self.kind = kind
        self.key = key
        self.index = index
        self.number = number


def numbered(keys: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Each key with a unique number, in the order to send them."""
    return zip(keys, count())


def by_key(messages: Iterable[tuple[str, int]]) -> dict[str, list[int]]:
    """The numbers of each key, in order, for the argument `sent` of `check_history`."""
    numbers: dict[str, list[int]] = {}
    for key, number in messages:
        numbers.setdefault(key, []).append(number)
    return numbers


def check_history(sent: Numbers, applied: Numbers) -> None:
    """Raise `HistoryError` unless every key has exactly what was sent to it, in order."""
    _raise_first(sent, applied, complete=True)


def check_history_so_far(sent: Numbers, applied: Numbers) -> None:
    """Like `check_history`, while messages are still queued: the last numbers sent may be missing."""
    _raise_first(sent, applied, complete=False)


def history_errors(sent: Numbers, applied: Numbers) -> list[HistoryError]:
    """Like `check_history`, but returns the first error of each wrong key instead of raising."""
    return list(_errors(sent, applied, complete=True))


def first_difference(sent: Sequence[int], applied: Sequence[int]) -> int | None:
    """The first index at which they differ, or the length of the shorter one; None if they are equal."""
    pairs = enumerate(zip_longest(sent, applied))
    return next((index for index, (wanted, found) in pairs if wanted != found), None)


def _raise_first(sent: Numbers, applied: Numbers, *, complete: bool) -> None:
    errors = list(_errors(sent, applied, complete=complete))
    if errors:
        errors[0].add_note(f"{len(errors)} of {len(sent.keys() | applied.keys())} keys are wrong")
        raise errors[0]


def _errors(sent: Numbers, applied: Numbers, *, complete: bool) -> Iterator[HistoryError]:
    """The first error of each wrong key."""
    owners = {number: key for key, numbers in sent.items() for number in numbers}
    for key in sorted(sent.keys() | applied.keys()):
        wanted, found = sent.get(key, ()), applied.get(key, ())
        if len(set(wanted)) < len(wanted):
            raise ValueError(f"the numbers sent to key {key!r} are not distinct, so the history cannot be checked")
        if not complete:
            wanted = _up_to_the_last_applied(wanted, found)
        if (place := first_difference(wanted, found)) is not None:
            yield _classify(key, wanted, found, place, owners)


def _up_to_the_last_applied(wanted: Sequence[int], found: Sequence[int]) -> Sequence[int]:
    applied = set(found)
    last = max((index for index, number in enumerate(wanted) if number in applied), default=-1)
    return wanted[: last + 1]


def _classify(
    key: str, wanted: Sequence[int], found: Sequence[int], place: int, owners: Mapping[int, str]
) -> HistoryError:
    """Name the difference. An added or moved message is named before a missing one."""
    context = f"(sent {_around(wanted, place)}, applied {_around(found, place)})"
    ranks = {number: rank for rank, number in enumerate(wanted)}
    seen: set[int] = set()
    for index, number in enumerate(found):
        if number not in ranks:
            owner = f"was sent to key {owners[number]!r}" if number in owners else "was sent to no key"
            return HistoryError("foreign", key, index, number, f"{owner} {context}")
        if number in seen:
            return HistoryError("duplicate", key, index, number, f"was applied before {context}")
        seen.add(number)
    for index, (before, number) in enumerate(pairwise(found), start=1):
        if ranks[number] < ranks[before]:
            return HistoryError("reorder", key, index, number, f"came after {before} {context}")
    lost = next(index for index, number in enumerate(wanted) if number not in seen)
    return HistoryError("loss", key, lost, wanted[lost], f"was never applied {context}")


def _around(numbers: Sequence[int], place: int) -> str:
    start = max(place - CONTEXT, 0)
    shown = ", ".join(str(number) for number in numbers[start : place + CONTEXT + 1])
    before = "… " if start else ""
    after = " …" if place + CONTEXT + 1 < len(numbers) else ""
    return f"[{before}{shown}{after}]"
