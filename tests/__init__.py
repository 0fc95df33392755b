"""The tests, laid out as `tasks/` is. A package, so that a folder may be called `typing`."""
