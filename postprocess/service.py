"""The postprocess service: a model's raw number in, the result for the producer out."""

import math
from collections.abc import Sequence
from typing import Any

from pipeline.contracts.failures import ArtifactCorrupt
from pipeline.contracts.lanes import ModelRef
from pipeline.contracts.stages import Stage
from pipeline.contracts.work import Output
from pipeline.models.folder import ModelStore
from pipeline.models.manifests import check_decision

BATCH = 128
_EDGE = 1e-7
_LOWEST = -700.0
"""Log-odds below which the exponential does not fit into a double; the score is about 1e-304 there."""


class Decision:
    """Calibration and bands of one model version, by its manifest; ArtifactCorrupt."""

    def __init__(self, manifest: dict[str, Any]) -> None:
        check_decision(manifest)
        calibration = manifest["calibration"]
        self._line: tuple[float, float] | None = None
        if calibration["method"] == "platt":
            self._line = calibration["slope"], calibration["intercept"]
        self._bands = [(band["below"], band["decision"]) for band in manifest["bands"]]

    def calibrated(self, raw: float) -> float:
        """Returns the score: the raw number, by Platt's method (Platt 1999: a line in log-odds) or as it is."""
        if self._line is None:
            return raw
        slope, intercept = self._line
        raw = min(max(raw, _EDGE), 1 - _EDGE)
        log_odds = slope * math.log(raw / (1 - raw)) + intercept
        return 1 / (1 + math.exp(-max(log_odds, _LOWEST)))

    def decide(self, score: float) -> str:
        """Returns the decision of the first band that the score is below; the last band includes 1."""
        return next(decision for below, decision in self._bands if score < below or below >= 1)


class Postprocess:
    """Calibrates and decides for any version in the model store."""

    stage = Stage.POSTPROCESS

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._models: dict[ModelRef, Decision] = {}
        self._stand_ins: dict[ModelRef, Decision] = {}

    def batch_limit(self, model: ModelRef) -> int:  # noqa: ARG002
        """Returns how many rows make a batch: rows are cheap here, so as many as a script may touch."""
        return BATCH

    def perform(self, model: ModelRef, bodies: Sequence[float | tuple[float, str]]) -> list[Output]:
        """Returns for each raw number the result: ``{"score", "decision", "raw"}``.

        A fallback's raw number comes as a pair with the fallback's name.
        """
        results = []
        for body in bodies:
            raw, decision = (
                (body, self._decision(model)) if isinstance(body, float) else (body[0], self._instead(model))
            )
            score = decision.calibrated(raw)
            results.append(Output({"score": score, "decision": decision.decide(score), "raw": raw}))
        return results

    def _decision(self, model: ModelRef) -> Decision:
        known = self._models.get(model)
        if known is None:
            known = self._models[model] = Decision(self._store.open(model).manifest)
        return known

    def _instead(self, model: ModelRef) -> Decision:
        known = self._stand_ins.get(model)
        if known is None:
            fallback = self._store.open(model).fallback
            if fallback is None:
                raise ArtifactCorrupt(f"{model.name}@{model.version} names no fallback, but one has answered for it")
            known = self._stand_ins[model] = self._decision(fallback)
        return known
