"""A client of the service: it posts prices, and reads until they have been applied."""

import time

from fastapi.testclient import TestClient
from prices.main import api

with TestClient(api) as client:
    assert client.get("/prices/AAPL").status_code == 404
    assert client.post("/prices", json={"symbol": "AAPL", "price": -1}).status_code == 422
    assert client.post("/prices", json={"symbol": "AAPL", "price": 191.5}).status_code == 202
    assert client.post("/prices/async", json={"symbol": "AAPL", "price": 192.5}).status_code == 202
    while (reply := client.get("/prices/AAPL")).status_code == 404 or reply.json()["count"] < 2:
        time.sleep(0.05)
    print(reply.json())
