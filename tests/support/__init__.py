"""What tests stand on: a real server, worker processes, a proxy between them, waiting, and the history check."""
