"""Artifacts of made-up tabular models, for measurements and for chaos: what they predict does not matter."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.contracts.lanes import ModelRef
from pipeline.models.folder import write_artifact


def number_column(name: str, *, mean: float, scale: float, low: float, high: float, far: float) -> dict[str, Any]:
    """Returns the encoding of a numeric feature, for ``preprocess.json``."""
    plain = {"log": False, "fill": 0.0, "mean": mean, "scale": scale, "low": low, "high": high, "far": far}
    return {"name": name, "kind": "number", **plain, "marks_gaps": False}


def write_synthetic(
    root: Path,
    name: str,
    description: str,
    *,
    architecture: Mapping[str, Any],
    weights: bytes,
    features: Sequence[str],
    properties: Mapping[str, Any],
    required: Sequence[str],
    columns: Sequence[Mapping[str, Any]],
    example: Mapping[str, Any],
    replace: bool = False,
    **more: Any,
) -> ModelRef:
    """Writes version 1 of a model into the model store ``root``; returns its name with its digest.

    ``properties``: of the input schema. ``columns``: the encoding. ``weights``: safetensors. ``more``: goes into the
    manifest as it is.
    """
    manifest = {
        "name": name,
        "version": "1",
        "description": description,
        "architecture": architecture,
        "torch": ">=2.6,<3",
        "max_batch": 64,
        "input_schema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": properties,
            "required": list(required),
            "additionalProperties": False,
        },
        "features": list(features),
        "bands": [{"below": 0.5, "decision": "approve"}, {"below": 1.0, "decision": "decline"}],
        "calibration": {"method": "platt", "slope": 1.0, "intercept": 0.0},
        "example": {"features": example},
        **more,
    }
    files = {
        "model.safetensors": weights,
        "preprocess.json": (json.dumps({"columns": columns}, indent=1) + "\n").encode(),
    }
    return write_artifact(root, manifest, files, replace=replace)
