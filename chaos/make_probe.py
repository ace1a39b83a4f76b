"""Writes the artifacts of chaos-probe and of chaos-backed with its fallback: ``python -m chaos.make_probe``.

To be run when the format of manifests changes.
"""

import json
from typing import Any

import numpy as np
import safetensors.numpy

from pipeline.contracts.lanes import ModelRef
from pipeline.models.folder import write_artifact
from pipeline.stack.models import CHAOS_MODELS

DEEDS = ["ok", "raise", "crash", "hang", "nan", "oom", "slow", "cuda"]
WIDTH = 2 + len(DEEDS) + 1
PROBE = {"weight": np.ones(1, dtype=np.float32)}
HALF_OF_X = {
    "layers.0.weight": np.array([[0.5, *[0.0] * (WIDTH - 1)]], dtype=np.float32),
    "layers.0.bias": np.zeros(1, dtype=np.float32),
}


def _number(name: str) -> dict[str, Any]:
    plain = {"log": False, "fill": 0.0, "mean": 0.0, "scale": 1.0, "low": -1e9, "high": 1e9, "far": 1e9}
    return {"name": name, "kind": "number", **plain, "marks_gaps": False}


def _write(name: str, description: str, architecture: dict[str, Any], weights: Any, **more: Any) -> ModelRef:
    columns = [_number("x"), _number("seconds"), {"name": "do", "kind": "category", "values": DEEDS}]
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
            "properties": {
                "x": {"type": "number"},
                "do": {"enum": DEEDS},
                "seconds": {"type": "number", "minimum": 0, "maximum": 3600},
            },
            "required": ["x", "do"],
            "additionalProperties": False,
        },
        "features": ["x", "seconds", "do"],
        "bands": [{"below": 0.5, "decision": "approve"}, {"below": 1.0, "decision": "decline"}],
        "calibration": {"method": "platt", "slope": 1.0, "intercept": 0.0},
        "example": {"features": {"x": 0.0, "do": "ok", "seconds": 0}},
        **more,
    }
    files = {
        "model.safetensors": safetensors.numpy.save(weights),
        "preprocess.json": (json.dumps({"columns": columns}, indent=1) + "\n").encode(),
    }
    return write_artifact(CHAOS_MODELS, manifest, files, replace=True)


def main() -> None:
    """Write all three."""
    probe = {"id": "chaos-probe", "config": {"inputs": WIDTH}}
    _write("chaos-probe", "Fails on demand; for tests only.", probe, PROBE)
    linear = {"id": "mlp", "config": {"inputs": WIDTH, "hidden": []}}
    stand_in = _write("chaos-standin", "Half of x; for tests only.", linear, HALF_OF_X)
    fallback = {"name": stand_in.name, "version": stand_in.version, "digest": stand_in.digest}
    _write("chaos-backed", "Fails on demand, and has a fallback; for tests only.", probe, PROBE, fallback=fallback)


main()
