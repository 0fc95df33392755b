"""Keys: which values can be keys, their normalized form, and the partition of a key.

A normalized key is text. Values with the same normalized form are the same key: `"7"`, `b"7"` and `7`.
Bytes that are not UTF-8 are preserved (surrogateescape), so any bytes value can be a key.
"""

from __future__ import annotations

import re
from enum import Enum
from uuid import UUID
from zlib import crc32

from celery_partitions.model.errors import KeyExtractionError

#: A longer key is refused, because keys are field names in Redis and are shown in operators' lists.
MAX_KEY_BYTES = 4096
#: A text of fewer characters is never too long, whatever the characters.
SHORT_KEY = MAX_KEY_BYTES // 4

#: A byte that is not UTF-8, as `shown_key` shows it. It is never an ASCII byte.
_SHOWN_BYTE = re.compile(rb"\\x([89a-f][0-9a-f])")

Key = str | bytes | int | bool | UUID | Enum


def normalize_key(value: object) -> str:
    """The normalized form of a key. Raises `KeyExtractionError` for a value that can't be a key.

    str unchanged; bytes as UTF-8; int in decimal; bool as `true`/`false`; UUID in its standard form; Enum by its value.
    """
    if type(value) is str:
        key = value
    elif isinstance(value, Enum):
        return normalize_key(value.value)
    elif isinstance(value, str):
        key = str.__str__(value)
    elif isinstance(value, bytes | bytearray):
        key = bytes(value).decode("utf-8", "surrogateescape")
    elif isinstance(value, bool):
        key = "true" if value else "false"
    elif isinstance(value, int | UUID):
        try:
            key = str(value)
        except ValueError:  # Python converts no int of more than 4300 digits
            raise KeyExtractionError(f"the key has more than {MAX_KEY_BYTES} bytes") from None
    else:
        raise KeyExtractionError(
            f"a key must be str, bytes, int, bool, UUID or an Enum of those, not {type(value).__name__}"
        )
    if len(key) >= SHORT_KEY and len(key_bytes(key)) > MAX_KEY_BYTES:
        raise KeyExtractionError(f"the key has more than {MAX_KEY_BYTES} bytes")
    return key


def key_bytes(key: str) -> bytes:
    """The bytes of a normalized key, as stored in Redis. Raises `KeyExtractionError` for text that can't be encoded."""
    try:
        return key.encode()
    except UnicodeEncodeError:
        pass
    try:
        raw = key.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise KeyExtractionError(f"the key is not valid Unicode: {error.reason}") from None
    if key_text(raw) != key:  # escaped bytes that form a character: two different keys would share one state in Redis
        raise KeyExtractionError("the key is not valid Unicode: it contains a character as escaped bytes")
    return raw


def key_text(raw: bytes) -> str:
    """The normalized key for bytes from Redis; the inverse of `key_bytes`."""
    return raw.decode("utf-8", "surrogateescape")


def shown_key(key: str) -> str:
    r"""A normalized key as text for people, valid in any encoding: bytes that are not UTF-8 become `\xff`."""
    return key_bytes(key).decode("utf-8", "backslashreplace")


def keys_shown_as(text: str) -> list[str]:
    r"""The keys that `shown_key` shows as this text: the text itself, and the text with `\xff` replaced by that byte.

    Raises `KeyExtractionError` for text that can't be a key.
    """
    other = key_text(_SHOWN_BYTE.sub(lambda found: bytes([int(found[1], 16)]), key_bytes(text)))
    return [one for one in dict.fromkeys((text, other)) if shown_key(one) == text]


def partition_of(key: object, partitions: int) -> int:
    """The partition, 0 … `partitions`-1, of a key: CRC-32 (IEEE, as in zlib) of its UTF-8 bytes, modulo N."""
    return partition_of_normalized(normalize_key(key), partitions)


def partition_of_normalized(key: str, partitions: int) -> int:
    """The partition of a key from `normalize_key`. The only place that computes it."""
    try:
        raw = key.encode()
    except UnicodeEncodeError:
        raw = key_bytes(key)
    return crc32(raw) % partitions
