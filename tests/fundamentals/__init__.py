"""Read these first: one promise a test, kept by real workers on a real server."""
