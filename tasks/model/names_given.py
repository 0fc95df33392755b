"""The names that users give: of computations, sources, sinks and applications.

They become task names, parts of Redis keys, labels and log fields, so they must be short and printable.
"""

from __future__ import annotations

from celery_partitions.model.errors import DeclarationError

MAX_NAME_CHARACTERS = 200


def check_name(what: str, name: object) -> None:
    """Raise `DeclarationError` for an invalid name. `what`: whose name it is, for the error's text."""
    if not isinstance(name, str) or not name.strip():
        raise DeclarationError(f"{what} needs a name: a non-empty str, not {name!r:.80}")
    if len(name) > MAX_NAME_CHARACTERS:
        raise DeclarationError(
            f"{what} {name[:40]!r}…: its name has {len(name):,} characters. Give it a name of at most {MAX_NAME_CHARACTERS}"
        )
    if not name.isprintable():
        raise DeclarationError(
            f"{what} {name!r}: its name contains line breaks or control characters. Remove them"
        )
