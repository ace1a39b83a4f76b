"""Pieces of rows, in blocks of few fixed shapes: what a model runs over.

A row of numbers is one piece. A row of two texts is two pieces, which need not run side by side.

A kernel is chosen by the shape of its input, and kernels add in different orders. So a row's number would depend on
how many others are computed with it. Here the shape that a piece is computed in does not depend on its neighbours: its
size follows from the piece alone, and a block has ``rows`` pieces or, where that changes no bit of the outputs, a half,
a quarter, ... down to ``least``. A block that lacks pieces is filled up. (There are few shapes: a CUDA graph could be
captured of each.)
"""

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from torch import Tensor, nn

Piece = TypeVar("Piece")


class Pieces(NamedTuple, Generic[Piece]):
    """The pieces of a batch, row by row, and the size that each is padded to (1 where all are alike)."""

    pieces: Sequence[Piece]
    sizes: Sequence[int]


class Block(NamedTuple):
    """Pieces of one size that run together, by their places in the batch, and how many ``rows`` their tensors have."""

    places: Sequence[int]
    size: int
    rows: int


class Architecture(nn.Module):
    """What the scoring service asks of a model. ``forward`` gives one output for each piece of a block."""

    rows: int
    """Pieces in the largest block: a power of two."""
    least: int
    """Pieces in the smallest block, a power of two: a smaller block may give a piece other bits."""

    @abstractmethod
    def pieces(self, bodies: Sequence[bytes]) -> Pieces[Any]:
        """Returns the pieces of a batch, as many for each body. A piece's size depends on nothing but the piece."""

    @abstractmethod
    def stage(self, pieces: Sequence[Any], size: int, rows: int) -> tuple[Tensor, ...]:
        """Returns the arguments of ``forward`` for a block of ``rows`` pieces of ``size``, in the CPU's memory."""

    @abstractmethod
    def raw(self, outputs: Tensor) -> Tensor:
        """Returns one number in 0..1 (float64) for each row, given the outputs of all pieces."""


def blocks(sizes: Sequence[int], rows: int, least: int, most: int, *, varied: bool = True) -> Iterator[Block]:
    """Yields blocks that hold each piece once: of ``rows`` pieces or, if they may be ``varied``, fewer at the end.

    No block is padded to more than ``most`` in sum, unless it would have fewer than ``least`` pieces. The largest size
    comes first, so that a batch that runs out of memory does so at once.
    """
    places_of: dict[int, list[int]] = defaultdict(list)
    for place, size in enumerate(sizes):
        places_of[size].append(place)
    for size in sorted(places_of, reverse=True):
        places = places_of[size]
        largest = rows
        while largest > least and largest * size > most:
            largest //= 2
        at = 0
        while at < len(places):
            count = largest
            while varied and count > least and count > len(places) - at:
                count //= 2
            yield Block(places[at : at + count], size, count)
            at += count
