"""Operators' functions, on a real server without a worker."""
