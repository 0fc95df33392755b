"""From a user's message to a partition's queue: declarations, routing, `delay`, `send_many`."""
