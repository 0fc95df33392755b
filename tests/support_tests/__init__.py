"""Tests of the tests' own support: a check counts only after it has been seen to fail."""
