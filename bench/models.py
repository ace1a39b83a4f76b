"""Models that a measurement makes for itself: what they say is of no interest, only how much goes in."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.contracts.lanes import ModelRef
from pipeline.models.folder import write_artifact
from scoring.architectures import build
from training.fitting import weights_file

HIDDEN = [64, 32]
"""As credit-default has them."""


def write_numbers(root: Path, count: int) -> ModelRef:
    """A model of so many numeric features, ``feature_0001`` and so on, each of which preprocess checks and encodes."""
    names = feature_names(count)
    properties = {name: {"type": "number", "minimum": 0, "maximum": 1000} for name in names}
    return _write(root, f"numbers-{count}", properties, names, dict.fromkeys(names, 0.5))


def write_payload(root: Path) -> ModelRef:
    """A model that reads one number, ``x``, and is sent a text of any length beside it."""
    properties = {"x": {"type": "number", "minimum": 0, "maximum": 1000}, "text": {"type": "string"}}
    return _write(root, "payload", properties, ["x"], {"x": 0.5, "text": ""})


def feature_names(count: int) -> list[str]:
    """Names of 12 characters."""
    return [f"feature_{number:04}" for number in range(1, count + 1)]


def _write(
    root: Path, name: str, properties: Mapping[str, Any], read: list[str], example: Mapping[str, Any]
) -> ModelRef:
    torch.manual_seed(1)
    architecture = {"id": "mlp", "config": {"inputs": len(read), "hidden": HIDDEN}}
    column = {"kind": "number", "log": False, "fill": 0.0, "mean": 500.0, "scale": 300.0, "marks_gaps": False}
    columns = [{"name": each, **column, "low": 0.0, "high": 1000.0, "far": 5.0} for each in read]
    manifest = {
        "name": name,
        "version": "1",
        "description": "Random weights; for measurements only.",
        "architecture": architecture,
        "torch": ">=2.6,<3",
        "max_batch": 64,
        "input_schema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        },
        "features": list(properties),
        "bands": [{"below": 0.5, "decision": "approve"}, {"below": 1.0, "decision": "decline"}],
        "calibration": {"method": "platt", "slope": 1.0, "intercept": 0.0},
        "example": {"features": example},
    }
    files = {
        "model.safetensors": weights_file(build(architecture)),
        "preprocess.json": json.dumps({"columns": columns}).encode(),
    }
    return write_artifact(root, manifest, files)
