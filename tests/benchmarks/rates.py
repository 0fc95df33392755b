"""The rate limits that are counted: the measure and its candidate use them."""

#: Calls per second: of all keys together, and of each key. And the bursts.
RATES = {"shared": 40.0, "per-key": 5.0}
BURSTS = {"shared": 2, "per-key": 1}
