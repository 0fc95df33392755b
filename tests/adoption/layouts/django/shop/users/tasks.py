from dataclasses import dataclass

from celery import shared_task
from django.contrib.auth import get_user_model

from celery_partitions import state_computation


@shared_task()
def get_users_count():
    """A pointless Celery task to demonstrate usage."""
    return get_user_model().objects.count()


@dataclass
class Login:
    username: str


class Logins:
    count = 0
    known = False


@state_computation(name="users.count_login", state=Logins, key=lambda login: login.username)
def count_login(login: Login, logins: Logins) -> None:
    logins.count += 1
    logins.known = get_user_model().objects.filter(username=login.username).exists()
