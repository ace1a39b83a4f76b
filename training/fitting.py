"""Training of a tabular model: full batches, early stopping, the same result for the same seed."""

import copy
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from torch import nn

from scoring.architectures import Mlp, build

Floats = npt.NDArray[np.float32]


def train(architecture: dict[str, Any], features: Floats, outcomes: Floats, *, seed: int, epochs: int) -> nn.Module:
    """Fits an architecture to ``features`` (rows, inputs) and ``outcomes`` (rows,) in {0, 1}.

    One row in six is held out: the weights of the epoch with the lowest loss on those rows are kept.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(features))
    held, used = order[: len(order) // 6], order[len(order) // 6 :]
    inputs, targets = torch.from_numpy(features), torch.from_numpy(outcomes)
    module = build(architecture)
    optimizer = torch.optim.AdamW(module.parameters(), lr=2e-3, weight_decay=0.05)
    loss_of = nn.BCEWithLogitsLoss()
    best_loss, best_weights = float("inf"), copy.deepcopy(module.state_dict())
    for _ in range(epochs):
        module.train()
        for batch in np.array_split(rng.permutation(used), max(1, len(used) // 64)):
            optimizer.zero_grad()
            loss_of(module(inputs[batch]), targets[batch]).backward()
            optimizer.step()
        module.eval()
        with torch.inference_mode():
            loss = float(loss_of(module(inputs[held]), targets[held]))
        if loss < best_loss:
            best_loss, best_weights = loss, copy.deepcopy(module.state_dict())
    module.load_state_dict(best_weights)
    module.eval()
    return module


def linear(weights: npt.NDArray[np.float64], bias: float) -> nn.Module:
    """Returns a logistic regression (a weight for each input) as the architecture ``mlp`` without a hidden layer."""
    module = Mlp(inputs=len(weights), hidden=[])
    layer = module.layers[0]
    layer.load_state_dict({"weight": torch.from_numpy(weights)[None], "bias": torch.tensor([bias])})
    return module.eval()


@torch.inference_mode()
def probabilities(module: nn.Module, features: Floats) -> npt.NDArray[np.float64]:
    """Returns the module's own probability for each row, as the scoring service computes it."""
    return torch.sigmoid(module(torch.from_numpy(features)).double()).numpy()


def weights_file(module: nn.Module) -> bytes:
    """Returns the weights as safetensors."""
    return safetensors.torch.save({name: tensor.contiguous() for name, tensor in module.state_dict().items()})
