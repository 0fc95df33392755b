"""State bytes: one format byte, a signature when there is a key for it, and the pickle (protocol 5).

    01 | pickle                 unsigned
    02 | tag, 16 bytes | pickle  signed

The tag is keyed BLAKE2b over the computation's name, the key and the pickle, each with its length, so a value can't be
moved to another key. Once a signing key is set nothing is unpickled before its tag was found right (law 8).
Source: RFC 7693 (BLAKE2), keyed mode.
"""

from __future__ import annotations

import pickle
from hashlib import blake2b
from hmac import compare_digest
from typing import Any

from tasks.model.computation import Computation
from tasks.model.errors import StateError, say
from tasks.model.keys import key_bytes
from tasks.model.outcome import Pickling

UNSIGNED = b"\x01"
SIGNED = b"\x02"
TAG_BYTES = 16


class StateCodec:
    """Bytes of states for one process; `signing_keys`: the first signs, all verify, none means unsigned."""

    def __init__(self, signing_keys: tuple[bytes, ...] = ()) -> None:
        # BLAKE2b takes keys of up to 64 bytes; a longer secret is hashed to that.
        self._keys = tuple(key if len(key) <= 64 else blake2b(key).digest() for key in signing_keys)

    def dump(self, computation: Computation, key: str, state: Any) -> bytes:
        """Called for each changed state of a batch, in the worker. Raises what pickle raises."""
        data = pickle.dumps(state, 5)
        if not self._keys:
            return UNSIGNED + data
        return SIGNED + _tag(self._keys[0], computation.name, key, data) + data

    def load(self, computation: Computation, key: str, stored: bytes) -> Any:
        """The state object in `stored`. Raises `StateError` for a wrong tag, unknown format, or a bad pickle."""
        data = self.verified(computation.name, key, stored)
        try:
            state = pickle.loads(data)
        except Exception as error:
            raise StateError(f"state of {computation.name!r} can't be unpickled: {say(error)}") from error
        wanted = computation.state
        if wanted is None or not (isinstance(state, wanted.cls) or _same_source(type(state), wanted.cls)):
            raise StateError(f"state of {computation.name!r} is a {type(state).__qualname__}, not what is declared")
        return wanted.complete(state) if wanted.completes else state

    def verified(self, name: str, key: str, stored: bytes) -> bytes:
        """The pickle inside, once its tag is right. Unpickles nothing."""
        form = stored[:1]
        if form == UNSIGNED:
            if self._keys:
                raise StateError("the state is not signed, and STATE_SIGNING_KEY is set: it is not unpickled")
            return stored[1:]
        if form != SIGNED:
            raise StateError(f"the state has the unknown format byte {form.hex() or 'nothing'}")
        if not self._keys:
            raise StateError("the state is signed, and STATE_SIGNING_KEY is not set: it is not unpickled")
        tag, data = stored[1 : 1 + TAG_BYTES], stored[1 + TAG_BYTES :]
        if not any(compare_digest(tag, _tag(secret, name, key, data)) for secret in self._keys):
            raise StateError("the state's signature is wrong: it is not unpickled")
        return data

    def pickling(self) -> Pickling:
        """What the pure step is given."""
        return Pickling(self.dump, self.load)


def _same_source(one: type, other: type) -> bool:
    """The same class twice: of a script that is `__main__` here, and was imported by its name in the worker."""
    return one.__qualname__ == other.__qualname__ and "__main__" in (one.__module__, other.__module__)


def _tag(secret: bytes, name: str, key: str, data: bytes) -> bytes:
    scope, spelled = name.encode(), key_bytes(key)
    head = b"%d:%b%d:%b" % (len(scope), scope, len(spelled), spelled)
    return blake2b(head + data, digest_size=TAG_BYTES, key=secret).digest()
