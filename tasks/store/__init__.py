"""What Redis holds, and the few atomic operations on it, as the worker's loop and producers need them."""
