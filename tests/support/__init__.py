"""What tests stand on: a real server, workers, a proxy between them, waiting, and the history check."""
