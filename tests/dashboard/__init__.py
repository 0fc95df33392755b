"""The dashboard: the rules of each URL, and the pages in a real browser."""
