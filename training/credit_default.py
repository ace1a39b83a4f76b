"""``scoreline train-demo``: train the credit model on real loan applications and write its artifact.

It uses the stages' own code - the encoder of preprocess, the architecture of scoring, the calibration of postprocess -
so that the model that is measured here is the one that serves. The same seed gives the same artifact.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, roc_auc_score

from pipeline.cli.console import run
from pipeline.models.folder import write_artifact
from pipeline.samples.credit_data import (
    CATEGORIES,
    FEATURES,
    NUMBERS,
    SPLIT_SEED,
    Application,
    read_applications,
    split,
)
from pipeline.telemetry.logs import configure_logging
from postprocess.service import Decision
from preprocess.encoding import Encoder
from tasks.proof import with_result
from training.command import artifact_options, artifact_parser
from training.fitting import linear, probabilities, train, weights_file

SEED = 1
EPOCHS = 40
NAME = "credit-default"
FALLBACK = "credit-default-logistic"
LOGGED = {"Seniority", "Income", "Assets", "Debt", "Amount", "Price", "Expenses"}
# The values that an application may hold, whatever training saw: the domain of each feature.
DOMAIN = {
    "Seniority": (0, 80, "years in the present job"),
    "Time": (1, 480, "months the loan runs"),
    "Expenses": (0, 100_000, "monthly expenses"),
    "Income": (0, 1_000_000, "monthly income"),
    "Assets": (0, 100_000_000, "value of assets"),
    "Debt": (0, 100_000_000, "present debt"),
    "Amount": (1, 10_000_000, "amount of the loan"),
    "Price": (1, 10_000_000, "price of what it is for"),
}
BANDS = [
    {"below": 0.2, "decision": "approve"},
    {"below": 0.5, "decision": "review"},
    {"below": 1.0, "decision": "decline"},
]
Floats = npt.NDArray[np.floating[Any]]


def encoding_of(applications: list[Application]) -> dict[str, Any]:
    """Returns ``preprocess.json``: how each feature is encoded, fitted to the training part."""
    columns: list[dict[str, Any]] = []
    for name in NUMBERS:
        given = [row.features[name] for row in applications]
        values = np.array([value for value in given if value is not None])
        scaled = np.log1p(values) if name in LOGGED else values
        columns.append(
            {
                "name": name,
                "kind": "number",
                "log": name in LOGGED,
                "fill": float(np.median(values)),
                "mean": float(scaled.mean()),
                "scale": float(scaled.std()),
                "low": float(values.min()),
                "high": float(values.max()),
                "far": 5.0,
                "marks_gaps": len(values) < len(given),
            }
        )
    for name in CATEGORIES:
        seen = sorted({row.features[name] for row in applications} - {None})
        columns.append({"name": name, "kind": "category", "values": seen})
    return {"columns": columns}


def input_schema(applications: list[Application]) -> dict[str, Any]:
    """Returns the JSON Schema of the features: all are required; null is allowed where the data lack values."""
    properties: dict[str, Any] = {}
    for name in NUMBERS:
        low, high, meaning = DOMAIN[name]
        nullable = any(row.features[name] is None for row in applications)
        kind = ["number", "null"] if nullable else "number"
        properties[name] = {"type": kind, "minimum": low, "maximum": high, "description": meaning}
    for name in CATEGORIES:
        values: list[str | None] = sorted({row.features[name] for row in applications} - {None})
        nullable = any(row.features[name] is None for row in applications)
        properties[name] = {"enum": values + [None] * nullable}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {name: properties[name] for name in FEATURES},
        "required": list(FEATURES),
        "additionalProperties": False,
    }


OUTPUT_SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "score": {"type": "number", "minimum": 0, "maximum": 1, "description": "calibrated probability of default"},
        "decision": {"enum": [band["decision"] for band in BANDS]},
        "raw": {"type": "number", "minimum": 0, "maximum": 1, "description": "the model's own probability"},
    },
    "required": ["score", "decision", "raw"],
    "additionalProperties": False,
}


def platt(raw: Floats, outcomes: Floats) -> dict[str, Any]:
    """Fits a calibration by Platt's method, a line through the log-odds, to the calibration part."""
    raw = np.clip(raw, 1e-7, 1 - 1e-7)
    fitted = LogisticRegression(C=1e6).fit(np.log(raw / (1 - raw)).reshape(-1, 1), outcomes)
    return {"method": "platt", "slope": float(fitted.coef_[0, 0]), "intercept": float(fitted.intercept_[0])}


def calibrated(calibration: dict[str, Any], raw: Floats) -> Floats:
    """Returns calibrated probabilities, by the code that serves."""
    decision = Decision({"calibration": calibration, "bands": BANDS})
    return np.array([decision.calibrated(value) for value in raw])


def expected_calibration_error(scores: Floats, outcomes: Floats, bins: int = 10) -> float:
    """Returns the mean distance of score and outcome over bins of equal count (Naeini et al. 2015, equal mass)."""
    order = np.argsort(scores)
    return float(
        sum(
            len(part) / len(scores) * abs(scores[part].mean() - outcomes[part].mean())
            for part in np.array_split(order, bins)
        )
    )


def measure(scores: Floats, outcomes: Floats) -> dict[str, float]:
    """Returns the held-out figures of calibrated scores."""
    return {
        "auc": round(float(roc_auc_score(outcomes, scores)), 4),
        "brier": round(float(brier_score_loss(outcomes, scores)), 4),
        "ece": round(expected_calibration_error(scores, outcomes), 4),
    }


def train_demo(out: Path, *, version: str = "1", seed: int = SEED) -> dict[str, Any]:
    """Trains, calibrates, measures and writes ``credit-default`` and its fallback; returns its manifest.

    ArtifactExists if the version exists with another content; OSError.
    """
    applications = read_applications()
    parts = split(applications)
    encoding = encoding_of(parts.train)
    encoder = Encoder(encoding)
    encoded = {
        name: encoder.encode([row.features for row in rows])[0]
        for name, rows in (("train", parts.train), ("calibration", parts.calibration), ("held_out", parts.held_out))
    }
    outcomes = {
        name: np.array([row.defaulted for row in rows], dtype=np.float32)
        for name, rows in (("train", parts.train), ("calibration", parts.calibration), ("held_out", parts.held_out))
    }
    architecture = {"id": "mlp", "config": {"inputs": encoder.width, "hidden": [64, 32], "dropout": 0.3}}
    module = train(architecture, encoded["train"], outcomes["train"], seed=seed, epochs=EPOCHS)
    baseline = LogisticRegression(max_iter=2000).fit(encoded["train"], outcomes["train"])

    def evaluate(raw: dict[str, Floats]) -> tuple[dict[str, Any], dict[str, float]]:
        calibration = platt(raw["calibration"], outcomes["calibration"])
        return calibration, measure(calibrated(calibration, raw["held_out"]), outcomes["held_out"])

    names = ("calibration", "held_out")
    calibration, metrics = evaluate({name: probabilities(module, encoded[name]) for name in names})
    plain = linear(baseline.coef_[0], float(baseline.intercept_[0]))
    plain_calibration, reference = evaluate({name: probabilities(plain, encoded[name]) for name in names})

    common = {
        "version": version,
        "torch": ">=2.6,<3",
        "max_batch": 64,
        "cache_ttl_s": 300,
        "input_schema": input_schema(applications),
        "output_schema": OUTPUT_SCHEMA,
        "features": list(FEATURES),
        "bands": BANDS,
        "example": {"features": parts.train[0].features},
        "training": {
            "seed": seed,
            "split_seed": SPLIT_SEED,
            "rows": {"train": len(parts.train), "calibration": len(parts.calibration), "held_out": len(parts.held_out)},
            "data": "credit_data of the R package modeldata; Age and Marital left out",
            "licence": "MIT",
        },
    }
    encoding_file = (json.dumps(encoding, indent=1) + "\n").encode()
    fallback = {
        "name": FALLBACK,
        "description": "Probability that a loan goes bad, by logistic regression: stands in for credit-default.",
        "architecture": {"id": "mlp", "config": {"inputs": encoder.width, "hidden": []}},
        "calibration": plain_calibration,
        "metrics": {"held_out_rows": len(parts.held_out), "logistic_regression": reference},
        **common,
    }
    files = {"model.safetensors": weights_file(plain), "preprocess.json": encoding_file}
    pinned = write_artifact(out, with_result(fallback, files), files)
    manifest = {
        "name": NAME,
        "description": "Probability that a loan goes bad, from the application.",
        "architecture": architecture,
        "calibration": calibration,
        "fallback": {"name": pinned.name, "version": pinned.version, "digest": pinned.digest},
        "metrics": {"held_out_rows": len(parts.held_out), "mlp": metrics, "logistic_regression": reference},
        **common,
    }
    files = {"model.safetensors": weights_file(module), "preprocess.json": encoding_file}
    manifest = with_result(manifest, files)
    write_artifact(out, manifest, files)
    return manifest


def main() -> None:
    """Runs ``scoreline train-demo``."""
    parser = artifact_parser("scoreline train-demo", "Train the credit model.")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--json", action="store_true", help="print the metrics as JSON")
    options = artifact_options(parser)
    configure_logging("train-demo", level="ERROR")
    metrics = train_demo(options.out, version=options.version, seed=options.seed)["metrics"]
    if options.json:
        print(json.dumps(metrics))
        return
    print(f"held out: {metrics['held_out_rows']} applications, written to {options.out / NAME / options.version}")
    for name in ("mlp", "logistic_regression"):
        figures = "  ".join(f"{key} {value:.4f}" for key, value in metrics[name].items())
        print(f"{name:20} {figures}")


if __name__ == "__main__":
    run(main)
