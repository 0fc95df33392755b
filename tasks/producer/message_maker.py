"""From a message of one computation to the raw message on its key's queue, a hundred thousand times a second."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

from celery_partitions.model.computation import Computation
from celery_partitions.model.errors import MessageError
from celery_partitions.model.keys import partition_of_normalized
from celery_partitions.model.message_writer import MessageTemplate, escape, unescape
from celery_partitions.model.values import dump_value
from celery_partitions.runtime.installation import Installation
from celery_partitions.store.names import INGRESS
from celery_partitions.tracing.headers import encode_headers

if TYPE_CHECKING:
    from celery_partitions.tracing.spans import Tracing


class MessageMaker:
    """Made once a sender. Ids are given as they stand between the quotes of JSON. `ids_are_known`: somebody can ask for results."""

    def __init__(self, installation: Installation, computation: Computation, *, ids_are_known: bool = False) -> None:
        names, partitions = installation.group.names, installation.settings.partitions
        self.computation, self.partitions = computation, partitions
        #: The queue of each partition, as a key in Redis.
        self.queues = [names.queue(str(number)) for number in range(partitions)]
        self._takes_values = computation.takes_values and not computation.codec.is_typed
        self._encode, self._key_of, self._check_size = computation.codec.encode, computation.key_of, installation.check_size
        self._dump = installation.group.codec.dump_value
        origin = f"gen{os.getpid()}@{socket.gethostname()}"
        ignore_result = not (ids_are_known and computation.replies)
        self._templates = [
            MessageTemplate(computation.name, names.queue_name(str(number)), origin, ignore_result)
            for number in range(partitions)
        ]
        self._to_ingress = MessageTemplate(computation.name, names.queue_name(INGRESS), origin)

    def make(self, message: Any, name: bytes, sent_at: bytes) -> tuple[int, bytes]:
        """The partition of a message, and the raw message. Raises `MessageError` for one that does not fit, and
        `KeyExtractionError` for one that has no key."""
        body, decoded = self._value(message, name) if self._takes_values else self._encode(message)
        self._check_size(body)
        partition = partition_of_normalized(self._key_of(decoded), self.partitions)
        return partition, self._templates[partition].fill(name, sent_at, body)

    def make_without_key(self, message: Any, name: bytes, sent_at: bytes) -> bytes:
        """The raw message as it would be sent to the ingress: a worker finds its key, or says why there is none."""
        body, _ = self._value(message, name) if self._takes_values else self._encode(message)
        return self._to_ingress.fill(name, sent_at, body)

    def _value(self, message: Any, name: bytes) -> tuple[bytes, Any]:
        """A computation that takes any Python value gets what JSON can't hold as a signed pickle."""

        def pickled() -> bytes:
            return self._dump(self.computation.name, unescape(name), message)

        return dump_value(self.computation.codec, message, pickled), message


class TracedMaker(MessageMaker):
    """Makes messages that carry the context of a span of their making."""

    def __init__(self, tracing: Tracing, installation: Installation, computation: Computation, ids_are_known: bool) -> None:
        super().__init__(installation, computation, ids_are_known=ids_are_known)
        self._tracing, self._names = tracing, installation.group.names

    def make(self, message: Any, name: bytes, sent_at: bytes) -> tuple[int, bytes]:
        body, decoded = self._value(message, name) if self._takes_values else self._encode(message)
        self._check_size(body)
        key = self._key_of(decoded)
        partition = partition_of_normalized(key, self.partitions)
        queue = self._names.queue_name(str(partition))
        carrier = self._tracing.created(self.computation.name, queue, unescape(name), lambda: key)
        more = b',"parent_id":null' + encode_headers(carrier)
        return partition, self._templates[partition].fill(name, sent_at, body, more)


def maker_for(installation: Installation, computation: Computation, *, ids_are_known: bool = False) -> MessageMaker:
    """What makes the messages of a sender."""
    if installation.tracing is None:
        return MessageMaker(installation, computation, ids_are_known=ids_are_known)
    return TracedMaker(installation.tracing, installation, computation, ids_are_known)


def random_ids(count: int) -> str:
    """Random digits, out of which `random_id` takes so many ids; the system is asked once for all."""
    return os.urandom(16 * count).hex()


def random_id(digits: str, number: int) -> bytes:
    """The `number`-th version 4 UUID of `random_ids`."""
    one = digits[32 * number : 32 * number + 32]
    return f"{one[:8]}-{one[8:12]}-4{one[13:16]}-a{one[17:20]}-{one[20:]}".encode()


def own_id(message_id: object, what: str) -> bytes:
    """An id of the sender's own, as it stands between the quotes of JSON; `what`: the name it is told by.

    Raises `MessageError` for what is no text, or an empty one: a worker could do no more than make a dead letter of the message.
    """
    if not isinstance(message_id, str) or not message_id:
        raise MessageError(f"{what} must be a text that is not empty, not {message_id!r:.80}", reason="bad-id")
    try:
        return escape(message_id)
    except (UnicodeEncodeError, ValueError) as error:
        raise MessageError(f"{what} can't be written as JSON: {error}", reason="bad-id") from None
