"""The computations of the app behind the pages."""

from __future__ import annotations

from dataclasses import dataclass, field

from celery_partitions import Timer, key_extractor, state_computation


@dataclass
class Payment:
    account: str
    amount: int


@dataclass
class Account:
    balance: int = 0
    notes: list[str] = field(default_factory=list)


@key_extractor
def account_of(payment: Payment) -> str:
    return payment.account


@state_computation("tests.dashboard: pay", state=Account, key=account_of)
def pay(payment: Payment, state: Account) -> None:
    state.balance += payment.amount


@pay.on_timer("remind")
def remind(timer: Timer, state: Account) -> None: ...
