"""Send to the running workers, as a view of the project would, and read the results."""

import time

import django

django.setup()

from django.contrib.auth import get_user_model  # noqa: E402
from shop.users.tasks import Login, count_login, get_users_count  # noqa: E402

get_user_model().objects.create(username="ada")
assert get_users_count.delay().get(timeout=30) == 1
for _ in range(3):
    count_login.delay(Login("ada"))
while (logins := count_login.state("ada")) is None or logins.count < 3:
    time.sleep(0.05)
print(logins.count, logins.known)
