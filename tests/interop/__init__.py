"""Messages of producers that have none of our code."""
