"""What tests are built on: a real server, workers, a proxy between them, waiting, and the history check."""
