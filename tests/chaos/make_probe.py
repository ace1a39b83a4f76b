"""Writes the artifact of chaos-probe: ``python -m tests.chaos.make_probe``, when the manifest's format changes."""

import json

import numpy as np
import safetensors.numpy

from pipeline.model_store import write_artifact
from pipeline.stack.local import CHAOS_MODELS

DEEDS = ["ok", "raise", "crash", "hang", "nan", "oom", "slow"]


def _number(name: str) -> dict:
    plain = {"log": False, "fill": 0.0, "mean": 0.0, "scale": 1.0, "low": -1e9, "high": 1e9, "far": 1e9}
    return {"name": name, "kind": "number", **plain, "marks_gaps": False}


def main() -> None:
    columns = [_number("x"), _number("seconds"), {"name": "do", "kind": "category", "values": DEEDS}]
    files = {
        "model.safetensors": safetensors.numpy.save({"weight": np.ones(1, dtype=np.float32)}),
        "preprocess.json": (json.dumps({"columns": columns}, indent=1) + "\n").encode(),
    }
    manifest = {
        "name": "chaos-probe",
        "version": "1",
        "description": "Fails on demand; for tests only.",
        "architecture": {"id": "chaos-probe", "config": {"inputs": 2 + len(DEEDS) + 1}},
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
    }
    write_artifact(CHAOS_MODELS, manifest, files)


main()
