"""A visitor: pays twice, and reads the account until it shows both payments."""

import time

from make_celery import flask_app
from shop.payments import currency

assert currency.delay().get(timeout=30) == "EUR"
client = flask_app.test_client()
for amount in (5, 7):
    assert client.post(f"/payments/ada/{amount}").json == {"accepted": True}
while len(client.get("/payments/ada").json["entries"]) < 2:
    time.sleep(0.05)
print(client.get("/payments/ada").json["entries"])
