"""What a model runs over: a row's pieces, grouped by size so that little of a batch is padding.

A row of numbers is one piece. A row of two texts is two, which need not be run side by side.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from torch import Tensor, nn

Piece = TypeVar("Piece")
LEAST_FILLED = 0.9
"""How much of a group must be more than padding."""


class Pieces(NamedTuple, Generic[Piece]):
    """The pieces of a batch, those of each row in turn, and the size of each (1 where all are the same)."""

    pieces: Sequence[Piece]
    sizes: Sequence[int]


class Architecture(nn.Module):
    """What the scoring service asks of a model. ``forward`` gives one output for each piece."""

    @abstractmethod
    def pieces(self, bodies: Sequence[bytes]) -> Pieces[Any]:
        """The pieces of a batch, as many for each body."""

    @abstractmethod
    def stage(self, pieces: Sequence[Any]) -> tuple[Tensor, ...]:
        """The arguments of ``forward`` for some pieces, in the CPU's memory."""

    @abstractmethod
    def raw(self, outputs: Tensor) -> Tensor:
        """One number in 0..1 (float64) for each row, from the outputs of all pieces."""


def grouped(sizes: Sequence[int], most: int) -> Iterator[list[int]]:
    """Places of pieces that run together: of nearly the same size, and padded no larger than ``most`` in sum.

    From the largest down, so that whatever runs out of memory does so first. A piece that is larger runs alone.
    """
    order = sorted(range(len(sizes)), key=sizes.__getitem__, reverse=True)
    group: list[int] = []
    filled = 0
    for place in order:
        if group:
            padded = sizes[group[0]] * (len(group) + 1)
            if padded > most or filled + sizes[place] < LEAST_FILLED * padded:
                yield group
                group, filled = [], 0
        group.append(place)
        filled += sizes[place]
    if group:
        yield group
