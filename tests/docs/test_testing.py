"""`celery_partitions.testing`: what it promises for a user's own tests."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from celery_partitions import MessageError, state_computation
from celery_partitions.testing import apply


@dataclass
class Payment:
    account: str
    amount: float


class Balance:
    total = 0.0
    entries = []  # noqa: RUF012 - on purpose: each key gets its own


@state_computation(name="tests.docs.pay", state=Balance, key=lambda payment: payment.account)
def pay(payment: Payment, balance: Balance) -> None:
    balance.total += payment.amount
    balance.entries.append(payment.amount)
    if payment.amount < 0:
        raise ValueError("negative")


def test_each_key_has_its_own_state():
    result = apply(pay, [Payment("a", 1), {"account": "b", "amount": 5}, Payment("a", 2)])
    assert (result.states["a"].total, result.states["b"].total) == (3, 5)
    assert (result.states["a"].entries, result.states["b"].entries) == ([1, 2], [5])


def test_a_failed_message_leaves_the_state_as_it_was_and_later_ones_of_its_key_wait():
    result = apply(pay, [Payment("a", 1), Payment("a", -1), Payment("a", 2), Payment("b", -1), Payment("c", 4)])
    assert result.states["a"].entries == [1]
    assert "b" not in result.states
    assert result.states["c"].total == 4
    assert [message.account for message, _ in result.failures] == ["a", "b"]
    assert [message.amount for message in result.waiting] == [2]


def test_given_states_are_continued_but_not_changed():
    before = Balance()
    before.total, before.entries = 10.0, [10.0]
    result = apply(pay, [Payment("a", 1)], states={"a": before})
    assert result.states["a"].total == 11
    assert before.entries == [10.0]


def test_an_invalid_message_is_refused_as_by_a_producer():
    with pytest.raises(MessageError, match=r"\$\.amount"):
        apply(pay, [{"account": "a", "amount": "x"}])
