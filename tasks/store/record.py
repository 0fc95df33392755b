"""The binary format of a record: a pickled state, a source's position or a value in a message, with its signature.

    format   1 byte   the payload's encoding, and whether it is signed; plus HEADER if a header follows
    header            optional: its length (4 bytes, big-endian) and a MessagePack map
    tag      16 bytes only if signed
    payload           a pickle (protocol 5), or JSON

The tag covers the record's owner (group, computation and key; see `Signer`), the format, the header and the payload. So without the
key a record cannot be moved to another key, computation or group, and its header cannot be changed.

A signature does not prevent replay. Anyone who can write to Redis can put an older, correctly signed record of the same key back. Only
the server's access rights (ACL) prevent that.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from hmac import compare_digest
from typing import Any, Literal, NamedTuple

import msgspec

from celery_partitions.model.errors import StateError
from celery_partitions.model.keys import key_bytes
from celery_partitions.model.versions import FIRST, MAX_VERSION

UNSIGNED = b"\x01"
SIGNED = b"\x02"
UNSIGNED_JSON = b"\x03"
SIGNED_JSON = b"\x04"
_FORMS = (UNSIGNED, SIGNED, UNSIGNED_JSON, SIGNED_JSON)
#: Added to the format byte if a header follows.
HEADER = 0x80
_WITH_HEADER = {form: bytes((form[0] + HEADER,)) for form in _FORMS}

TAG_BYTES = 16
_LENGTH_BYTES = 4
#: The names in a header. They are short, because each versioned state has them.
#: `v`: the state's version, if it is above 1.
VERSION = "v"
#: `t`: the key's timers: name → a `TimerEntry`.
TIMERS = "t"
#: A longer header is refused.
MAX_HEADER_BYTES = 1 << 24

_encode, _decode = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(dict[str, Any]).decode

#: What a record contains: a key's state, a value in a message, or a source's position.
Kind = Literal["state", "message", "position"]


class Record(NamedTuple):
    """The parts of a record. Nothing is verified."""

    #: The format byte, without HEADER.
    form: bytes
    #: The format byte and the header, as stored.
    head: bytes
    tag: bytes
    payload: bytes

    @property
    def header(self) -> dict[str, Any]:
        """The decoded header. Read it only after the tag is verified. Raises `StateError` if it can't be decoded."""
        if len(self.head) == 1:
            return {}
        try:
            return _decode(self.head[1 + _LENGTH_BYTES :])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StateError("its header can't be decoded") from error


def version_in(header: Mapping[str, Any]) -> int:
    """The version of the state in a record with this header. Raises `StateError` if it is not a version."""
    version = header.get(VERSION, FIRST)
    if type(version) is not int or not FIRST <= version <= MAX_VERSION:
        raise StateError(f"its header has the state version {str(version)[:40]!r}, which is not an integer from {FIRST} to {MAX_VERSION:,}")
    return version


def version_of(stored: bytes) -> int:
    """The version of the state in a record, which is not verified. Raises `StateError`."""
    return FIRST if stored[:1] in _FORMS else version_in(split(stored).header)


def head_of(form: bytes, header: Mapping[str, Any]) -> bytes:
    """The first bytes of a record with a header."""
    encoded = _encode(header)
    return _WITH_HEADER[form] + len(encoded).to_bytes(_LENGTH_BYTES, "big") + encoded


def split(stored: bytes) -> Record:
    """Split a record into its parts. Raises `StateError` for bytes that are not a record."""
    end, form = 1, stored[:1]
    if form >= b"\x80":
        form = bytes((form[0] - HEADER,))
    if form not in _FORMS:
        raise _foreign(stored[:1])
    if form != stored[:1]:
        length = int.from_bytes(stored[1 : 1 + _LENGTH_BYTES], "big")
        end = 1 + _LENGTH_BYTES + length
        if length > MAX_HEADER_BYTES or end > len(stored):
            raise StateError("its header is truncated")
    if form in (UNSIGNED, UNSIGNED_JSON):
        return Record(form, stored[:end], b"", stored[end:])
    return Record(form, stored[:end], stored[end : end + TAG_BYTES], stored[end + TAG_BYTES :])


def _foreign(form: bytes) -> StateError:
    begins = f"begins with the byte 0x{form.hex()}" if form else "is empty"
    return StateError(f"it {begins}, so something other than celery-partitions wrote it, or a newer version of it")


class Signer:
    """Makes and verifies the tags of records of one kind and one name (of a computation, for example) in one group.

    Source: RFC 7693 (BLAKE2), keyed mode.
    """

    def __init__(self, secrets: tuple[bytes, ...], kind: Kind, group: str, name: str) -> None:
        #: The subject of error messages.
        self.what = f"the {kind}" if kind != "message" else "the value"
        scope = b"".join(b"%d:%b" % (len(part), part) for part in (kind.encode(), group.encode(), name.encode()))
        # BLAKE2b accepts keys of up to 64 bytes; a longer secret is hashed to 64.
        short = [secret if len(secret) <= 64 else blake2b(secret).digest() for secret in secrets]
        #: One hash per secret. The first signs; all verify.
        self._begun = [blake2b(scope, digest_size=TAG_BYTES, key=secret) for secret in short]

    def seal(self, key: str, payload: bytes, *, json: bool = False, header: Mapping[str, Any] | None = None) -> bytes:
        """Make a record from a payload: signed if there is a secret."""
        signed, unsigned = (SIGNED_JSON, UNSIGNED_JSON) if json else (SIGNED, UNSIGNED)
        form = signed if self._begun else unsigned
        return self.seal_behind(head_of(form, header) if header else form, key, payload)

    def seal_behind(self, head: bytes, key: str, payload: bytes) -> bytes:
        """Make a record that begins with `head`."""
        return head + self._tag(0, key, head, payload) + payload if self._begun else head + payload

    def verifies(self, key: str, record: Record) -> bool:
        """Whether one of the secrets made the tag, for this key, header and payload."""
        return any(
            compare_digest(record.tag, self._tag(number, key, record.head, record.payload)) for number in range(len(self._begun))
        )

    def _tag(self, number: int, key: str, head: bytes, payload: bytes) -> bytes:
        made = self._begun[number].copy()
        encoded = key_bytes(key)
        made.update(b"%d:%b%b" % (len(encoded), encoded, head))
        made.update(payload)
        return made.digest()
