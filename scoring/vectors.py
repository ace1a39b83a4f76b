"""Models whose input is a vector of numbers."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from scoring.pieces import Architecture, Pieces

ROWS = 64
"""In every block: a lone row takes 15 us longer than in a shape of its own, and a full batch is one block."""


class OverVectors(Architecture):
    """Rows come as ``inputs`` float32 numbers each; ``forward`` gives the log-odds of each row.

    Blocks have one shape only: the kernels for a few rows, and for what is left of many, add in orders of their own.
    """

    rows = least = ROWS

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.inputs = inputs

    def pieces(self, bodies: Sequence[bytes]) -> Pieces[bytes]:
        """The rows: all of one size. ValueError if one has too few numbers or too many."""
        lengths = set(map(len, bodies))
        if lengths != {4 * self.inputs}:
            # Read one behind the other, their neighbours' numbers would be taken for theirs.
            raise ValueError(f"a row has {4 * self.inputs} bytes ({self.inputs} float32), these have {sorted(lengths)}")
        return Pieces(bodies, [1] * len(bodies))

    def stage(self, pieces: Sequence[bytes], size: int, rows: int) -> tuple[Tensor, ...]:  # noqa: ARG002
        """(rows, inputs) float32, filled up with zeros."""
        features = torch.zeros(rows, self.inputs)  # aligned alike each time, which numpy's memory is not
        features.numpy().reshape(-1)[: len(pieces) * self.inputs] = np.frombuffer(b"".join(pieces), dtype=np.float32)
        return (features,)

    def raw(self, outputs: Tensor) -> Tensor:
        """(rows,) log-odds -> probabilities."""
        return torch.sigmoid(outputs.double())
