"""The names of keys: all keys of a partition are in one cluster slot, and a group recognizes its own keys."""

from __future__ import annotations

import pytest
from redis.crc import key_slot

from celery_partitions.model.errors import SetupError
from celery_partitions.store.names import INGRESS, Names, partitions_and_ingress

NAMES = Names("partition")


def keys_of(names: Names, partition: str) -> list[str | bytes]:
    return [
        names.queue(partition),
        names.meta(partition),
        names.states(partition, "update stock"),
        names.delayed(partition),
        names.parked(partition),
        names.mailbox(partition, "a {braced} key \udcff"),
        names.dead(partition),
        names.dead_raw(partition),
        names.isolation(partition),
        names.commits(partition),
        names.history(partition, "fine"),
        names.history(partition, "coarse"),
        names.deduplication(partition, "update stock", "young"),
        names.deduplication(partition, "update stock", "old"),
    ]


def keys_of_group(names: Names) -> list[str]:
    return [
        names.group_meta,
        names.workers,
        names.pins,
        names.owners,
        names.since,
        names.changed,
        names.audit,
        names.draining,
        names.tasks,
        names.wanted,
        names.measurements,
        names.computations,
        names.reports,
        names.computation_history("update stock", "fine"),
        names.policies,
        names.source("numbers"),
        names.source("numbers", "run"),
    ]


def as_bytes(key: str | bytes) -> bytes:
    return key if isinstance(key, bytes) else key.encode()


def slots(keys: list[str | bytes]) -> set[int]:
    return {key_slot(as_bytes(key)) for key in keys}


GROUPS = [
    NAMES,
    Names("partition", "shop:"),
    Names("partition", "{shop}:"),
    Names("partition", "a{b:"),
    Names(NAMES.sink_group("a }strange{ name.0")),
]


@pytest.mark.parametrize("names", GROUPS, ids=lambda names: names.root)
def test_one_slot_for_all_keys_of_a_partition(names: Names) -> None:
    for partition in partitions_and_ingress(4):
        assert len(slots(keys_of(names, partition))) == 1
    assert len(slots([*keys_of(names, INGRESS), *keys_of_group(names)])) == 1


def test_the_prefix_is_inside_the_braces() -> None:
    prefixed = Names("partition", "shop:")
    assert prefixed.states("3", "update stock") == "{shop:partition.3}:state:update stock"
    assert prefixed.group_meta == "{shop:partition}:group"


@pytest.mark.parametrize("prefix", ["a}b:", "{}:"])
def test_a_prefix_that_would_break_the_hash_tag_is_refused(prefix: str) -> None:
    with pytest.raises(SetupError, match="global_keyprefix"):
        Names("partition", prefix)


@pytest.mark.parametrize("names", GROUPS, ids=lambda names: names.root)
def test_a_group_owns_its_keys_and_no_others(names: Names) -> None:
    own = [key for partition in partitions_and_ingress(4) for key in keys_of(names, partition)] + keys_of_group(names) + [f"{names.queue('3')}\x06\x163"]
    assert all(names.owns(as_bytes(key)) for key in own)
    others = [Names("partitions"), Names("partition.x"), Names("other", names.prefix), Names(names.sink_group("out"), names.prefix)]
    foreign = [key for other in others for key in [*keys_of(other, "0"), *keys_of(other, INGRESS), *keys_of_group(other)]]
    assert not any(names.owns(as_bytes(key)) for key in [*foreign, "partition.03", "celery", "{partition"])


def test_no_queue_has_the_name_of_another_key() -> None:
    other_keys = [*keys_of(NAMES, "3")[1:], *keys_of_group(NAMES), Names(NAMES.sink_group("out")).meta("0")]
    assert all(NAMES.is_no_queue(as_bytes(key).decode("utf-8", "surrogateescape")) for key in other_keys)
    assert not any(map(NAMES.is_no_queue, ["partition", "partition.3", "partition.sink.out.0", "celery", "{celery}:x"]))
