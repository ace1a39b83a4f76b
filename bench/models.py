"""Models that a measurement makes for itself, of a given number of features or size of input."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bench.synthetic import number_column, write_synthetic
from pipeline.contracts.lanes import ModelRef
from scoring.architectures import build
from training.fitting import weights_file

HIDDEN = [64, 32]
"""As credit-default has them."""


def write_numbers(root: Path, count: int) -> ModelRef:
    """Writes a model of ``count`` numeric features, ``feature_0001`` and so on, each of them checked and encoded."""
    names = feature_names(count)
    properties = {name: {"type": "number", "minimum": 0, "maximum": 1000} for name in names}
    return _write(root, f"numbers-{count}", properties, names, dict.fromkeys(names, 0.5))


def write_payload(root: Path) -> ModelRef:
    """Writes a model that reads one number, ``x``, and is sent a text of any length beside it."""
    properties = {"x": {"type": "number", "minimum": 0, "maximum": 1000}, "text": {"type": "string"}}
    return _write(root, "payload", properties, ["x"], {"x": 0.5, "text": ""})


def feature_names(count: int) -> list[str]:
    """Returns names of 12 characters."""
    return [f"feature_{number:04}" for number in range(1, count + 1)]


def _write(
    root: Path, name: str, properties: Mapping[str, Any], read: list[str], example: Mapping[str, Any]
) -> ModelRef:
    torch.manual_seed(1)
    architecture = {"id": "mlp", "config": {"inputs": len(read), "hidden": HIDDEN}}
    return write_synthetic(
        root,
        name,
        "Random weights; for measurements only.",
        architecture=architecture,
        weights=weights_file(build(architecture)),
        features=list(properties),
        properties=properties,
        required=list(properties),
        columns=[number_column(each, mean=500.0, scale=300.0, low=0.0, high=1000.0, far=5.0) for each in read],
        example=example,
    )
