"""Grouping by size: every piece once, little padding, no group larger than it may be."""

from hypothesis import given
from hypothesis import strategies as st

from scoring.pieces import LEAST_FILLED, grouped

SIZES = st.lists(st.integers(1, 256), max_size=200)


@given(SIZES, st.integers(256, 20_000))
def test_every_piece_is_in_one_group_which_is_filled_and_not_too_large(sizes: list[int], most: int) -> None:
    groups = list(grouped(sizes, most))
    assert sorted(place for group in groups for place in group) == list(range(len(sizes)))
    for group in groups:
        padded = max(sizes[place] for place in group) * len(group)
        assert padded <= most
        assert sum(sizes[place] for place in group) >= LEAST_FILLED * padded


def test_pieces_of_one_size_stay_in_their_order() -> None:
    assert list(grouped([1, 1, 1], 100)) == [[0, 1, 2]]


def test_a_piece_that_is_larger_than_a_group_may_be_runs_alone() -> None:
    assert list(grouped([300, 5], 256)) == [[0], [1]]
