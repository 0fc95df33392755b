"""The bytes of a record that the engine owns: what stands around a pickled state, and around a source's position.

    format   1 byte   what the payload is, and whether it is signed; with HEADER added when a header follows
    header            only then: its length (4 bytes, big-endian), and a MessagePack map
    tag      16 bytes only when signed
    payload           a pickle (protocol 5), or JSON

A record without a header costs nothing for it. The tag covers what the record is of (`Signer`), the format, the header and the payload,
so nobody can move a record to another key, computation or group, or change its header.

A signature does not say when a record was written. Whoever can write to Redis can put back an older record of the same key, with its right
signature, and so roll that key back. Only access rights of the server (ACL) keep them from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from hmac import compare_digest
from typing import Any, Literal, NamedTuple

import msgspec

from celery_partitions.model.errors import StateError
from celery_partitions.model.keys import key_bytes

UNSIGNED = b"\x01"
SIGNED = b"\x02"
UNSIGNED_JSON = b"\x03"
SIGNED_JSON = b"\x04"
_FORMS = (UNSIGNED, SIGNED, UNSIGNED_JSON, SIGNED_JSON)
#: Added to the format when a header follows.
HEADER = 0x80

TAG_BYTES = 16
_LENGTH_BYTES = 4
#: What can't be longer than this is no header.
MAX_HEADER_BYTES = 1 << 24

_encode, _decode = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(dict[str, Any]).decode

#: What a record can be: a key's state, a value inside a message, how far a source is.
Kind = Literal["state", "message", "position"]


class Record(NamedTuple):
    """A record taken apart; nothing is verified."""

    #: Without HEADER.
    form: bytes
    #: The format and the header, as they are stored.
    head: bytes
    tag: bytes
    payload: bytes

    @property
    def header(self) -> dict[str, Any]:
        """Read it only when the tag is right. Raises `StateError`."""
        if len(self.head) == 1:
            return {}
        try:
            return _decode(self.head[1 + _LENGTH_BYTES :])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StateError("its header can't be read") from error


def split(stored: bytes) -> Record:
    """Take a record apart. Raises `StateError` for one that nobody here wrote."""
    end, form = 1, stored[:1]
    if form >= b"\x80":
        form = bytes((form[0] - HEADER,))
    if form not in _FORMS:
        raise StateError(f"it has the unknown format byte {stored[:1].hex() or 'nothing'}")
    if form != stored[:1]:
        length = int.from_bytes(stored[1 : 1 + _LENGTH_BYTES], "big")
        end = 1 + _LENGTH_BYTES + length
        if length > MAX_HEADER_BYTES or end > len(stored):
            raise StateError("its header is cut short")
    if form in (UNSIGNED, UNSIGNED_JSON):
        return Record(form, stored[:end], b"", stored[end:])
    return Record(form, stored[:end], stored[end : end + TAG_BYTES], stored[end + TAG_BYTES :])


class Signer:
    """Makes and checks the tags of the records of one kind and name (of a computation, say) in one group.

    Source: RFC 7693 (BLAKE2), keyed mode.
    """

    def __init__(self, secrets: tuple[bytes, ...], kind: Kind, group: str, name: str) -> None:
        #: For errors.
        self.what = f"the {kind}" if kind != "message" else "the value"
        scope = b"".join(b"%d:%b" % (len(part), part) for part in (kind.encode(), group.encode(), name.encode()))
        # BLAKE2b takes keys of up to 64 bytes; a longer secret is hashed to that.
        short = [secret if len(secret) <= 64 else blake2b(secret).digest() for secret in secrets]
        #: The first signs; all verify.
        self._begun = [blake2b(scope, digest_size=TAG_BYTES, key=secret) for secret in short]

    def seal(self, key: str, payload: bytes, *, json: bool = False, header: Mapping[str, Any] | None = None) -> bytes:
        """A payload as it is stored: signed when there is a secret."""
        signed, unsigned = (SIGNED_JSON, UNSIGNED_JSON) if json else (SIGNED, UNSIGNED)
        head = form = signed if self._begun else unsigned
        if header:
            encoded = _encode(header)
            head = bytes((form[0] + HEADER,)) + len(encoded).to_bytes(_LENGTH_BYTES, "big") + encoded
        if not self._begun:
            return head + payload
        return head + self._tag(0, key, head, payload) + payload

    def verifies(self, key: str, record: Record) -> bool:
        """Whether the tag was made with one of the secrets, for this key, header and payload."""
        return any(
            compare_digest(record.tag, self._tag(number, key, record.head, record.payload)) for number in range(len(self._begun))
        )

    def _tag(self, number: int, key: str, head: bytes, payload: bytes) -> bytes:
        made = self._begun[number].copy()
        spelled = key_bytes(key)
        made.update(b"%d:%b%b" % (len(spelled), spelled, head))
        made.update(payload)
        return made.digest()
