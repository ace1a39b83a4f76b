"""Models whose input is a vector of numbers."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from scoring.pieces import Architecture, Pieces

ROWS = 64
"""Rows in every block. A lone row takes 15 us longer than in a shape of its own; a full batch is one block."""


class OverVectors(Architecture):
    """Rows come as ``inputs`` float32 numbers each; ``forward`` gives the log-odds of each row.

    All blocks have one shape: kernels for few rows, and for the remainder of many, add in other orders.
    """

    rows = least = ROWS

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.inputs = inputs

    def pieces(self, bodies: Sequence[bytes]) -> Pieces[bytes]:
        """Returns the rows, all of one size. ValueError if one has too few numbers or too many."""
        lengths = set(map(len, bodies))
        if lengths != {4 * self.inputs}:
            # Joined into one buffer, a short row would take its neighbour's numbers.
            raise ValueError(f"a row has {4 * self.inputs} bytes ({self.inputs} float32), these have {sorted(lengths)}")
        return Pieces(bodies, [1] * len(bodies))

    def stage(self, pieces: Sequence[bytes], size: int, rows: int) -> tuple[Tensor, ...]:  # noqa: ARG002
        """Returns (rows, inputs) float32, filled up with zeros."""
        features = torch.zeros(rows, self.inputs)  # aligned alike each time, which numpy's memory is not
        features.numpy().reshape(-1)[: len(pieces) * self.inputs] = np.frombuffer(b"".join(pieces), dtype=np.float32)
        return (features,)

    def raw(self, outputs: Tensor) -> Tensor:
        """(rows,) log-odds -> probabilities."""
        return torch.sigmoid(outputs.double())
