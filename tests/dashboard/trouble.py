"""Creates problems that an operator fixes on the page: dead letters and held keys."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from celery_partitions.model.keys import partition_of
from celery_partitions.store.dead_letters import DeadLetter
from tests.fundamentals.live import PATIENCE_SECONDS, LiveGroup
from tests.support.applications.accounts import BROKEN, Account, Payment, deliver, pay
from tests.support.wait import wait_until


@contextmanager
def broken(live: LiveGroup, text: str = "the bank is closed") -> Iterator[None]:
    """Make payments that may fail do so, with this text."""
    live.client.set(BROKEN, text)
    try:
        yield
    finally:
        live.client.delete(BROKEN)


def make_dead_letters(live: LiveGroup, *keys: str, text: str = "the bank is closed", note: str = "") -> list[DeadLetter]:
    """One dead letter per key, from a payment of 7 that would succeed now."""
    with broken(live, text):
        live.send(pay, [Payment(key, 7, note, may_fail=True) for key in keys])
        return wait_until(
            lambda: found if len(found := dead_letters_of(live, *keys)) == len(keys) else None,
            PATIENCE_SECONDS,
            message="no dead letters",
        )


def dead_letters_of(live: LiveGroup, *keys: str) -> list[DeadLetter]:
    return [dead_letter for dead_letter in live.dead_letters() if dead_letter.key in keys]


def hold(live: LiveGroup, key: str, text: str = "the bank is closed") -> None:
    """Hold a key with a payment of 7 that would succeed now; a payment of 1 waits behind it."""
    with broken(live, text):
        live.send(deliver, [Payment(key, 7, may_fail=True), Payment(key, 1)])
        wait_until(
            lambda: (found := live.group.parked_keys.get(key)) and found.waiting == 2 and found.due is None,
            PATIENCE_SECONDS,
            message="the key is not held",
        )


def account(live: LiveGroup, computation: object, key: str) -> Account | None:
    """The state as it is stored."""
    found = live.group.states.get(computation.computation, key)  # type: ignore[attr-defined]
    assert found is None or isinstance(found, Account)
    return found


def balance(live: LiveGroup, computation: object, key: str) -> int:
    found = account(live, computation, key)
    return 0 if found is None else found.balance


def wait_balance(live: LiveGroup, computation: object, key: str, wanted: int) -> None:
    wait_until(lambda: balance(live, computation, key) == wanted, PATIENCE_SECONDS, message=f"the balance of {key} is not {wanted}")


def partition_of_queue(live: LiveGroup, key: str) -> str:
    return str(partition_of(key, live.settings.partitions))
