"""Writes the artifacts of chaos-probe and of chaos-backed with its fallback: ``python -m chaos.make_probe``.

Run it when the format of manifests changes.
"""

from typing import Any

import numpy as np
import safetensors.numpy

from bench.synthetic import number_column, write_synthetic
from pipeline.contracts.lanes import ModelRef
from pipeline.stack.models import CHAOS_MODELS

DEEDS = ["ok", "raise", "crash", "hang", "nan", "oom", "slow", "cuda"]
WIDTH = 2 + len(DEEDS) + 1
PROBE = {"weight": np.ones(1, dtype=np.float32)}
HALF_OF_X = {
    "layers.0.weight": np.array([[0.5, *[0.0] * (WIDTH - 1)]], dtype=np.float32),
    "layers.0.bias": np.zeros(1, dtype=np.float32),
}


def _write(name: str, description: str, architecture: dict[str, Any], weights: Any, **more: Any) -> ModelRef:
    numbers = [number_column(each, mean=0.0, scale=1.0, low=-1e9, high=1e9, far=1e9) for each in ("x", "seconds")]
    return write_synthetic(
        CHAOS_MODELS,
        name,
        description,
        architecture=architecture,
        weights=safetensors.numpy.save(weights),
        features=["x", "seconds", "do"],
        properties={
            "x": {"type": "number"},
            "do": {"enum": DEEDS},
            "seconds": {"type": "number", "minimum": 0, "maximum": 3600},
        },
        required=["x", "do"],
        columns=[*numbers, {"name": "do", "kind": "category", "values": DEEDS}],
        example={"x": 0.0, "do": "ok", "seconds": 0},
        replace=True,
        **more,
    )


def main() -> None:
    """Writes all three."""
    probe = {"id": "chaos-probe", "config": {"inputs": WIDTH}}
    _write("chaos-probe", "Fails on demand; for tests only.", probe, PROBE)
    linear = {"id": "mlp", "config": {"inputs": WIDTH, "hidden": []}}
    stand_in = _write("chaos-standin", "Half of x; for tests only.", linear, HALF_OF_X)
    fallback = {"name": stand_in.name, "version": stand_in.version, "digest": stand_in.digest}
    _write("chaos-backed", "Fails on demand, and has a fallback; for tests only.", probe, PROBE, fallback=fallback)


main()
