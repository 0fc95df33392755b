"""Flower's partition pages: each URL by its rules, and the pages in a real browser."""
