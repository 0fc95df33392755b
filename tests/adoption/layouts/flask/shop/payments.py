from dataclasses import dataclass

from celery import current_app as celery_app
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
    # A computation is called directly, not through FlaskTask, so it enters the application's context itself.
    with celery_app.flask_app.app_context():
        account.entries.append(f"{payment.amount} {current_app.config['CURRENCY']}")
