"""The data in Redis, and the atomic operations on it that workers and producers need."""
