"""Unit tests of `tasks.model`: values in, values out; no socket is opened here."""
