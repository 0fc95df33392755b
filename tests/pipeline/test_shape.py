"""The shape of a built pipeline, which the dashboard draws."""

from __future__ import annotations

from celery_partitions.pipeline.shape import Part
from celery_partitions.producer.pipelines import applications
from tests.support.applications import deliveries, pipelines


def test_stages_in_one_step_hops_and_sinks() -> None:
    shape = applications["shop"].shape
    assert deliveries.orders.name == "orders of the shop"
    assert {(one.start.name, one.end.name, one.kind) for one in shape.edges} == {
        ("orders of the shop", "orders of a customer", "step"),
        ("stored orders", "orders of a customer", "step"),
        ("orders of a customer", "check <the> order", "step"),
        ("check <the> order", "sales of a product", "queue"),
        ("check <the> order", "checked orders", "sink"),
        ("sales of a product", "sales", "sink"),
        ("sales of a product", "warehouse", "sink"),
    }
    assert Part("source", "stored orders", "StreamSource", True) in shape.parts
    assert Part("source", "orders of the shop") in shape.parts
    assert Part("sink", "warehouse", "CallableSink", True) in shape.parts
    assert Part("sink", "sales", "RedisList") in shape.parts
    assert len(shape.parts) == 8


def test_a_stage_that_several_lead_to_is_there_once() -> None:
    assert pipelines.windows.shape.parts.count(Part("stage", "next window")) == 1
    assert [one.end.name for one in pipelines.windows.shape.edges if one.start.name == "next window"] == ["next window 2", "two hops"]
