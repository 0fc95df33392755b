"""What Redis contains, on a real server: each answer of each script, and what other processes read."""
