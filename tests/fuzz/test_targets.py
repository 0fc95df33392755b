"""The fuzz targets pass for a few thousand inputs: any bytes, and damaged valid inputs."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, seeds


@st.composite
def damaged(draw: st.DrawFn, good: list[bytes]) -> bytes:
    """A valid input with a few pieces replaced, removed, doubled, or taken from another."""
    data = draw(st.sampled_from(good))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        stop = draw(st.integers(start, min(len(data), start + 20)))
        other = draw(st.sampled_from(good))
        at = draw(st.integers(0, len(other)))
        piece = draw(st.binary(max_size=8) | st.just(data[start:stop] * 2) | st.just(other[at : at + 20]))
        data = data[:start] + piece + data[stop:]
    return data


@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=300)
@given(st.data())
def test_no_input_breaks_a_target(target: str, data: st.DataObject) -> None:
    TARGETS[target](data.draw(damaged(seeds(target)) | st.binary(max_size=200)))


@pytest.mark.parametrize("target", TARGETS)
def test_the_initial_inputs_are_valid(target: str) -> None:
    for seed in seeds(target):
        TARGETS[target](seed)
