"""Architectures by id: a manifest names one with its configuration, the weights come from safetensors.

Only what is registered here can be built: loading an artifact never runs code that came with it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.contracts.failures import ArtifactCorrupt
from pipeline.settings import settings
from scoring.chaos_probe import ChaosProbe
from scoring.pieces import Architecture
from scoring.relevance import Relevance
from scoring.vectors import OverVectors


class Mlp(OverVectors):
    """A multilayer perceptron over encoded features: (rows, inputs) float32 -> (rows,) log-odds."""

    def __init__(self, inputs: int, hidden: list[int], dropout: float = 0.0) -> None:
        super().__init__(inputs)
        layers: list[nn.Module] = []
        width = inputs
        for units in hidden:
            layers += [nn.Linear(width, units), nn.ReLU(), nn.Dropout(dropout)]
            width = units
        layers.append(nn.Linear(width, 1))
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """Returns the log-odds of default for each row."""
        return self.layers(features).squeeze(-1)


ARCHITECTURES: dict[str, Callable[..., Architecture]] = {"mlp": Mlp, "relevance": Relevance}
if settings().chaos_model:
    ARCHITECTURES["chaos-probe"] = ChaosProbe


def build(architecture: dict[str, Any]) -> Architecture:
    """Builds the module that a manifest's ``architecture`` (id and config) describes; ArtifactCorrupt."""
    make = ARCHITECTURES.get(architecture["id"])
    if make is None:
        known = ", ".join(sorted(ARCHITECTURES))
        raise ArtifactCorrupt(f"unknown architecture {architecture['id']!r}: this build knows {known}")
    try:
        with torch.device("cpu"):
            return make(**architecture["config"])
    except (TypeError, ValueError, AssertionError) as error:
        raise ArtifactCorrupt(f"{architecture['id']} cannot be made from its config: {error}") from error
