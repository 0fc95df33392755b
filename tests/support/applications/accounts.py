"""Accounts whose messages fail while a Redis key is set, for the dashboard to show and an operator to fix."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import redis

from celery_partitions import RetryPolicy, app, key_extractor, state_computation

__all__ = ["BROKEN", "Account", "Owner", "Payment", "app", "deliver", "pay"]

#: While this Redis key is set, messages with `may_fail` fail. The key's value is the text of the error.
BROKEN = "accounts are broken"


@dataclass
class Payment:
    """With `may_fail` the message fails while `BROKEN` is set."""

    account: str
    amount: int
    note: str = ""
    may_fail: bool = False


@dataclass
class Owner:
    name: str = "unknown"
    emails: list[str] = field(default_factory=list)


@dataclass
class Account:
    """A nested state, which the key page shows as a tree."""

    balance: int = 0
    payments: int = 0
    owner: Owner = field(default_factory=Owner)
    notes: list[str] = field(default_factory=list)


@key_extractor
def account_of(payment: Payment) -> str:
    return payment.account


def _apply(payment: Payment, state: Account) -> None:
    if payment.may_fail:
        with redis.Redis.from_url(os.environ["REDIS_URL"]) as client:
            text = client.get(BROKEN)
        if isinstance(text, bytes):
            raise ValueError(text.decode())
    state.balance += payment.amount
    state.payments += 1
    if payment.note:
        state.notes.append(payment.note)


@state_computation("pay", state=Account, key=account_of, on_error=RetryPolicy(0, exhausted="dead_letter"))
def pay(payment: Payment, state: Account) -> None:
    """A failed message becomes a dead letter at once, and its key continues."""
    _apply(payment, state)


@state_computation("deliver", state=Account, key=account_of, on_error=RetryPolicy(0, exhausted="hold"))
def deliver(payment: Payment, state: Account) -> None:
    """A failed message holds its key until an operator acts."""
    _apply(payment, state)
