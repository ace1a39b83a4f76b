"""Models whose input is a vector of numbers."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from scoring.pieces import Architecture, Pieces


class OverVectors(Architecture):
    """Rows come as ``inputs`` float32 numbers each; ``forward`` gives the log-odds of each row."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.inputs = inputs

    def pieces(self, bodies: Sequence[bytes]) -> Pieces[bytes]:
        """The rows: all of one size."""
        return Pieces(bodies, [1] * len(bodies))

    def stage(self, rows: Sequence[bytes]) -> tuple[Tensor, ...]:
        """(rows, inputs) float32."""
        features = np.frombuffer(b"".join(rows), dtype=np.float32).reshape(len(rows), self.inputs)
        return (torch.from_numpy(features.copy()),)

    def raw(self, log_odds: Tensor) -> Tensor:
        """(rows,) log-odds -> probabilities."""
        return torch.sigmoid(log_odds.double())
