"""Messages as they are stored in a queue: which are decoded, and which are refused for which reason."""

from __future__ import annotations

import bz2
import gzip
import json
import zlib
from typing import Any

import pytest

from celery_partitions.model.errors import MessageError
from celery_partitions.model.messages import details_of, moment, open_envelope, open_slowly
from tests.model.build import raw_envelope, raw_message

BODY = b'[["x"],{},{}]'


def test_a_protocol_2_message_is_decoded() -> None:
    opened = open_envelope(raw_message("count", "x", "id-1", eta="2026-01-01T00:00:00", expires=5))
    assert (opened.headers.task, opened.headers.id) == ("count", "id-1")
    assert (opened.headers.eta, opened.headers.expires) == ("2026-01-01T00:00:00", 5)
    assert json.loads(opened.body) == [["x"], {}, {}]


def test_a_body_that_is_not_base64_encoded_is_used_unchanged() -> None:
    raw = raw_envelope(b"", properties={"body_encoding": None}, body=BODY.decode())
    assert open_envelope(raw).body == BODY


def test_a_message_without_content_type_is_decoded_as_json() -> None:
    assert open_envelope(raw_envelope(BODY, **{"content-type": None})).body == BODY


@pytest.mark.parametrize(
    ("name", "press"),
    [("application/x-gzip", gzip.compress), ("application/x-gzip", zlib.compress), ("zlib", zlib.compress)],
)
def test_a_compressed_body_is_decoded(name: str, press: Any) -> None:
    assert open_envelope(raw_envelope(press(BODY), headers={"compression": name})).body == BODY


def test_a_decompression_bomb_is_refused_without_decompressing_it() -> None:
    packed = raw_envelope(gzip.compress(b" " * 1000), headers={"compression": "gzip"})
    assert len(open_slowly(packed, 1000).body) == 1000
    with pytest.raises(MessageError, match=r"more than 1000 bytes when decompressed \(PARTITIONS_MESSAGE_BYTES\)") as caught:
        open_slowly(raw_envelope(gzip.compress(b" " * 100_000), headers={"compression": "gzip"}), 1000)
    assert caught.value.reason == "too-large"


def protocol_1(**fields: Any) -> bytes:
    content = {"task": "count", "id": "m1", "args": ["x"], "kwargs": {}, "retries": 0, **fields}
    return raw_envelope(json.dumps(content).encode(), headers={"task": None, "id": None, "lang": None})


@pytest.mark.parametrize("empty", ["left out", None, []])
def test_empty_headers_may_be_missing_null_or_an_array(empty: Any) -> None:
    """gocelery omits them; PHP's json_encode writes an empty map as an array."""
    message = json.loads(protocol_1())
    del message["headers"]
    if empty != "left out":
        message["headers"] = empty
    opened = open_envelope(json.dumps(message).encode())
    assert (opened.headers.task, opened.headers.id) == ("count", "m1")


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", 'Application/JSON;charset="UTF-8"', "json"])
def test_the_content_type_may_name_the_charset(content_type: str) -> None:
    assert open_envelope(raw_envelope(BODY, **{"content-type": content_type})).body == BODY


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-16", "application/json; version=2", "application/jsonx"])
def test_another_charset_or_parameter_is_refused(content_type: str) -> None:
    with pytest.raises(MessageError, match="must be application/json, in UTF-8") as caught:
        open_envelope(raw_envelope(BODY, **{"content-type": content_type}))
    assert caught.value.reason == "content-type"


def test_a_protocol_1_message_gives_the_same_envelope() -> None:
    opened = open_envelope(protocol_1(eta="2026-01-01T00:00:00", expires=None))
    assert (opened.headers.task, opened.headers.id, opened.headers.eta) == ("count", "m1", "2026-01-01T00:00:00")
    assert json.loads(opened.body) == [["x"], {}, {}]


def test_protocol_1_arguments_given_as_null_are_none() -> None:
    opened = open_envelope(protocol_1(args=None, kwargs={"message": 5}))
    assert json.loads(opened.body) == [[], {"message": 5}, {}]


NO_INFO = {"delivery_info": None}


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "not-json"),
        (b"\xff\xfe", "not-json"),
        (b"{", "not-json"),
        (b"[" * 100_000, "not-json"),
        (b"[1]", "not-a-message"),
        (b"null", "not-a-message"),
        (b'{"body": "x"}', "missing-headers"),
        (raw_envelope(BODY, headers={"id": None}), "missing-headers"),
        (raw_envelope(BODY, headers={"task": None}), "missing-headers"),
        (raw_envelope(BODY, headers={"id": 5}), "missing-headers"),
        (raw_envelope(BODY, headers={"task": ["count"]}), "missing-headers"),
        (raw_envelope(BODY, properties={"delivery_tag": None}), "missing-headers"),
        (raw_envelope(BODY, properties=NO_INFO), "missing-headers"),
        (raw_envelope(BODY, properties={"delivery_info": {"routing_key": "q"}}), "missing-headers"),
        (protocol_1(id=None), "missing-headers"),
        (raw_envelope(b"[]", headers={"task": None}), "missing-headers"),
        (raw_envelope(b"not json", headers={"task": None}), "not-json"),
        (raw_envelope(BODY, **{"content-type": "application/x-python-serialize"}), "content-type"),
        (raw_envelope(BODY, **{"content-type": "application/x-yaml"}), "content-type"),
        (raw_envelope(BODY, **{"content-type": ["x"]}), "content-type"),
        (raw_envelope(BODY, body=5), "not-a-message"),
        (raw_envelope(BODY, body="W10=="[:3]), "not-a-message"),
        (raw_envelope(bz2.compress(BODY), headers={"compression": "application/x-bz2"}), "compression"),
        (raw_envelope(BODY, headers={"compression": "gzip"}), "compression"),
        (raw_envelope(BODY, headers={"compression": {}}), "compression"),
    ],
)
def test_an_invalid_message_is_refused_with_a_reason(raw: bytes, reason: str) -> None:
    with pytest.raises(MessageError) as caught:
        open_envelope(raw)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        (5, 5.0),
        (2.5, 2.5),
        ("1970-01-01T00:00:10", 10.0),
        ("1970-01-01T00:00:10Z", 10.0),
        ("1970-01-01T01:00:10+01:00", 10.0),
        ("1970-01-01T00:00:00.5", 0.5),
    ],
)
def test_a_time_is_in_seconds_or_iso_8601_and_utc_by_default(value: object, seconds: float | None) -> None:
    assert moment(value) == seconds


@pytest.mark.parametrize("value", ["tomorrow", "", True, [], {"at": 5}, 10**400, -(10**20), 1e306])
def test_an_invalid_time_is_refused(value: object) -> None:
    with pytest.raises(MessageError) as caught:
        moment(value)
    assert caught.value.reason == "bad-time"


def test_the_other_headers_are_decoded_on_first_use() -> None:
    details = details_of(raw_message("count", "x", sent_at=12.5, root_id="r"))
    assert (details.sent_at, details.root_id, details.parent_id) == (12.5, "r", None)
    assert details_of(protocol_1()).sent_at is None
    assert details_of(b"\xff").sent_at is None
