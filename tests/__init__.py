"""The tests, laid out as `tasks/` is. A package, so that a folder here can bear the name of a standard module."""
