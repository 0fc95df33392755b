import pytest
from celery.result import EagerResult
from django.contrib.auth import get_user_model

from celery_partitions.testing import apply
from shop.users.tasks import Login, count_login, get_users_count

pytestmark = pytest.mark.django_db


def test_user_count(settings):
    """A basic test to execute the get_users_count Celery task."""
    for number in range(3):
        get_user_model().objects.create(username=f"user {number}")
    settings.CELERY_TASK_ALWAYS_EAGER = True
    task_result = get_users_count.delay()
    assert isinstance(task_result, EagerResult)
    assert task_result.result == 3


def test_logins_of_a_user_are_counted():
    get_user_model().objects.create(username="ada")
    states = apply(count_login, [Login("ada"), Login("ada"), Login("bob")]).states
    assert (states["ada"].count, states["ada"].known) == (2, True)
    assert (states["bob"].count, states["bob"].known) == (1, False)
