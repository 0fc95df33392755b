"""The history check fails for each kind of error that it must find."""

import pytest

from tests.support.history import (
    HistoryError,
    by_key,
    check_history,
    check_history_so_far,
    first_difference,
    history_errors,
    numbered,
)

SENT = {"a": [0, 2, 4, 6], "b": [1, 3, 5]}


def failure(applied: dict[str, list[int]]) -> HistoryError:
    with pytest.raises(HistoryError) as caught:
        check_history(SENT, applied)
    return caught.value


def test_what_was_sent_passes() -> None:
    check_history(SENT, {"a": [0, 2, 4, 6], "b": [1, 3, 5]})
    check_history({"a": []}, {})


@pytest.mark.parametrize(
    ("applied", "kind", "key", "index", "number"),
    [
        pytest.param({"a": [0, 2, 6], "b": [1, 3, 5]}, "loss", "a", 2, 4, id="lost in the middle"),
        pytest.param({"a": [0, 2, 4, 6], "b": [1, 3]}, "loss", "b", 2, 5, id="lost at the end"),
        pytest.param({"a": [0, 2, 4, 6]}, "loss", "b", 0, 1, id="lost with the whole key"),
        pytest.param({"a": [0, 2, 2, 4, 6], "b": [1, 3, 5]}, "duplicate", "a", 2, 2, id="applied twice"),
        pytest.param({"a": [0, 2, 4, 6, 0], "b": [1, 3, 5]}, "duplicate", "a", 4, 0, id="applied again late"),
        pytest.param({"a": [0, 4, 2, 6], "b": [1, 3, 5]}, "reorder", "a", 2, 2, id="two exchanged"),
        pytest.param({"a": [0, 2, 4, 6], "b": [5, 1]}, "reorder", "b", 1, 1, id="reordered and lost"),
        pytest.param({"a": [0, 2, 3, 4, 6], "b": [1, 5]}, "foreign", "a", 2, 3, id="of another key"),
        pytest.param({"a": [0, 2, 4, 6, 99], "b": [1, 3, 5]}, "foreign", "a", 4, 99, id="never sent"),
        pytest.param({**SENT, "c": [1]}, "foreign", "c", 0, 1, id="of a key that was sent nothing"),
    ],
)
def test_each_kind_is_named_with_its_place(
    applied: dict[str, list[int]], kind: str, key: str, index: int, number: int
) -> None:
    error = failure(applied)
    assert (error.kind, error.key, error.index, error.number) == (kind, key, index, number)


def test_the_error_names_the_key_of_a_foreign_number_and_counts_the_wrong_keys() -> None:
    error = failure({"a": [0, 2, 3, 4, 6], "b": [1, 5]})
    assert "was sent to key 'b'" in str(error)
    assert error.__notes__ == ["2 of 2 keys are wrong"]


def test_the_errors_of_all_keys_are_listed() -> None:
    errors = history_errors(SENT, {"a": [0, 2, 6], "b": [1, 3, 3, 5]})
    assert [(error.key, error.kind) for error in errors] == [("a", "loss"), ("b", "duplicate")]
    assert history_errors(SENT, SENT) == []


def test_check_history_so_far_accepts_only_a_missing_end() -> None:
    check_history_so_far(SENT, {"a": [0, 2]})
    with pytest.raises(HistoryError, match="loss at key 'a', index 1"):
        check_history_so_far(SENT, {"a": [0, 4]})


def test_numbers_that_repeat_within_a_key_are_refused() -> None:
    with pytest.raises(ValueError, match="not distinct"):
        check_history({"a": [1, 1]}, {"a": [1, 1]})


def test_first_difference() -> None:
    assert first_difference([1, 2], [1, 2]) is None
    assert first_difference([1, 2], [1, 3]) == 1
    assert first_difference([1, 2], [1]) == 1
    assert first_difference([], [1]) == 0


def test_numbered_messages_by_key() -> None:
    assert by_key(numbered(["a", "b", "a"])) == {"a": [0, 2], "b": [1]}
