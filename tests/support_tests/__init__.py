"""Tests of the test support itself: a check counts only after it was seen to fail."""
