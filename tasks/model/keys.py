"""Keys: what can be one, its one spelling, and the partition it decides.

A key's spelling is text. Two values with one spelling are one key: `"7"`, `b"7"` and `7` are the same key.
Bytes that are not UTF-8 keep their bytes (surrogateescape), so every bytes value is a key.
"""

from __future__ import annotations

import re
from enum import Enum
from uuid import UUID
from zlib import crc32

from celery_partitions.model.errors import KeyExtractionError

#: A longer key is refused: it would be a field name in Redis and stand in every list an operator reads.
MAX_KEY_BYTES = 4096
#: A text key of fewer characters can't be too long, whatever they are.
SHORT_KEY = MAX_KEY_BYTES // 4

#: A byte that is no UTF-8, in a key that is shown: it is never one of ASCII.
_SHOWN_BYTE = re.compile(rb"\\x([89a-f][0-9a-f])")

Key = str | bytes | int | bool | UUID | Enum


def normalize_key(value: object) -> str:
    """The one spelling of a key. Raises `KeyExtractionError` for what can't be a key.

    str as it is; bytes as UTF-8; int in decimal; bool `true`/`false`; UUID in its usual form; Enum by its value.
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
        except ValueError:  # Python writes no int of more than 4300 digits
            raise KeyExtractionError(f"a key of more than {MAX_KEY_BYTES} bytes") from None
    else:
        raise KeyExtractionError(
            f"a key must be str, bytes, int, bool, UUID or an Enum of those, not {type(value).__name__}"
        )
    if len(key) >= SHORT_KEY and len(key_bytes(key)) > MAX_KEY_BYTES:
        raise KeyExtractionError(f"a key of more than {MAX_KEY_BYTES} bytes")
    return key


def key_bytes(key: str) -> bytes:
    """The bytes of a spelled key, as they stand in Redis. Raises `KeyExtractionError` for text that has none."""
    try:
        return key.encode()
    except UnicodeEncodeError:
        pass
    try:
        raw = key.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise KeyExtractionError(f"a key that is not valid Unicode: {error.reason}") from None
    if key_text(raw) != key:  # escaped bytes that make a character: two spellings would share one state in Redis
        raise KeyExtractionError("a key that is not valid Unicode: it spells a character in escaped bytes")
    return raw


def key_text(raw: bytes) -> str:
    """The spelling of key bytes read back from Redis; the inverse of `key_bytes`."""
    return raw.decode("utf-8", "surrogateescape")


def shown_key(key: str) -> str:
    r"""A spelled key as text for people, which any encoding takes: bytes that are not UTF-8 as `\xff`."""
    return key_bytes(key).decode("utf-8", "backslashreplace")


def keys_shown_as(text: str) -> list[str]:
    r"""The keys that `shown_key` shows as a text: the text itself, and with the bytes that it has as `\xff`.

    Raises `KeyExtractionError` for text that is no key's.
    """
    other = key_text(_SHOWN_BYTE.sub(lambda found: bytes([int(found[1], 16)]), key_bytes(text)))
    return [one for one in dict.fromkeys((text, other)) if shown_key(one) == text]


def partition_of(key: object, partitions: int) -> int:
    """The partition, 0 … `partitions`-1, of a key: CRC-32 (IEEE, as in zlib) of its UTF-8 bytes, modulo N."""
    return partition_of_normalized(normalize_key(key), partitions)


def partition_of_normalized(key: str, partitions: int) -> int:
    """The same for a key that `normalize_key` has made. The only place where the number is computed."""
    return crc32(key_bytes(key)) % partitions
