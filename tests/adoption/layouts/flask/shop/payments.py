from dataclasses import dataclass

from celery import shared_task
from flask import current_app

from celery_partitions import state_computation


@shared_task(ignore_result=False)
def currency() -> str:
    return current_app.config["CURRENCY"]


@dataclass
class Payment:
    account: str
    amount: int


class Account:
    def __init__(self) -> None:
        self.entries: list[str] = []


@state_computation(name="receive payment", state=Account, key=lambda payment: payment.account)
def receive(payment: Payment, account: Account) -> None:
    account.entries.append(f"{payment.amount} {current_app.config['CURRENCY']}")
