"""What Redis holds, and the few atomic operations on it. The only room that speaks to Redis about partitions."""
