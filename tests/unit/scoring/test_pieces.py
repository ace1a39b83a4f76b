"""Blocks: every piece once, in a shape that its neighbours do not choose."""

from hypothesis import given
from hypothesis import strategies as st

from scoring.pieces import blocks
from scoring.relevance import padded

SIZES = st.lists(st.integers(1, 32).map(lambda steps: 4 * steps), max_size=200)


@given(SIZES, st.sampled_from([1, 2, 16]), st.integers(4, 20_000), st.booleans())
def test_every_piece_is_in_one_block_of_its_size(sizes: list[int], least: int, most: int, varied: bool) -> None:
    found = list(blocks(sizes, 16, least, most, varied=varied))
    assert sorted(place for block in found for place in block.places) == list(range(len(sizes)))
    for places, size, rows in found:
        assert {sizes[place] for place in places} == {size}
        assert 1 <= len(places) <= rows <= 16
        assert rows & (rows - 1) == 0, "few shapes: powers of two"
        assert rows == least or (rows > least and rows * size <= most)
        if varied:
            assert len(places) == rows or rows == least, "nothing is filled up but the smallest block"
    assert [block.size for block in found] == sorted((block.size for block in found), reverse=True)


@given(SIZES, st.integers(4, 20_000))
def test_where_blocks_are_not_varied_each_size_has_one_shape(sizes: list[int], most: int) -> None:
    shapes = {(block.size, block.rows) for block in blocks(sizes, 16, 1, most, varied=False)}
    assert len(shapes) == len(set(sizes))


def test_pieces_of_one_size_stay_in_their_order() -> None:
    assert list(blocks([1, 1, 1], 64, 64, 100)) == [([0, 1, 2], 1, 64)]
    assert list(blocks([8, 8, 8], 16, 1, 100)) == [([0, 1], 8, 2), ([2], 8, 1)]


def test_a_piece_that_is_larger_than_a_block_may_be_runs_in_the_smallest() -> None:
    assert list(blocks([304, 304, 8], 16, 1, 256)) == [([0], 304, 1), ([1], 304, 1), ([2], 8, 1)]


def test_lengths_are_few_multiples_of_four_and_not_much_longer_than_their_texts() -> None:
    lengths = [padded(tokens) for tokens in range(513)]
    assert all(length % 4 == 0 and length >= max(8, tokens) for tokens, length in enumerate(lengths))
    assert len(set(lengths)) == 39
    assert all(length - tokens < max(4, tokens / 8) for tokens, length in enumerate(lengths[5:], 5))
