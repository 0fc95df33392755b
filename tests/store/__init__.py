"""What Redis holds, on a real server: each answer of each script, and what is read from outside."""
