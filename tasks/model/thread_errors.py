"""Recognizes errors of code that works in a process's main thread only: a computation runs in another thread of its worker."""

from __future__ import annotations

import threading

#: (type's name, part of the text) → what to do.
_KNOWN = {
    ("ProgrammingError", "SQLite objects created in a thread can only be used in that same thread"): "open the connection on first use, not at import",
    ("ValueError", "signal only works in main thread"): "use time_limit= instead of a signal",
    ("RuntimeError", "There is no current event loop in thread"): "declare the computation as an async def",
}


def advice(error: BaseException) -> str:
    """What to add to the text of an exception that a computation raised; "" if its thread is not the reason."""
    if isinstance(error, AttributeError) and isinstance(error.obj, threading.local):
        return _advice("fill a threading.local on first use, not at import")
    for (kind, part), act in _KNOWN.items():
        if type(error).__name__ == kind and part in str(error):
            return _advice(act)
    return ""


def _advice(act: str) -> str:
    return f". Computations do not run in the worker's main thread: {act}"
