"""The postprocess service: a model's raw output in, the result that the producer reads out."""

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
"""Log-odds below which the exponential is too large for a double; the score is 0 there, but for 1e-304."""


class Decision:
    """Calibration and bands of one model version, as its manifest has them; ArtifactCorrupt."""

    def __init__(self, manifest: dict[str, Any]) -> None:
        check_decision(manifest)
        calibration = manifest["calibration"]
        self._line: tuple[float, float] | None = None
        if calibration["method"] == "platt":
            self._line = calibration["slope"], calibration["intercept"]
        self._bands = [(band["below"], band["decision"]) for band in manifest["bands"]]

    def calibrated(self, raw: float) -> float:
        """The score: the model's own number, by Platt's method (Platt 1999: a line in log-odds) or as it is."""
        if self._line is None:
            return raw
        slope, intercept = self._line
        raw = min(max(raw, _EDGE), 1 - _EDGE)
        log_odds = slope * math.log(raw / (1 - raw)) + intercept
        return 1 / (1 + math.exp(-max(log_odds, _LOWEST)))

    def decide(self, score: float) -> str:
        """The decision of the first band that the score is below; the last one's is that of 1, too."""
        return next(decision for below, decision in self._bands if score < below or below >= 1)


class Postprocess:
    """Calibrates and decides for any model version in the store."""

    stage = Stage.POSTPROCESS

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._models: dict[ModelRef, Decision] = {}
        self._stand_ins: dict[ModelRef, Decision] = {}

    def batch_limit(self, model: ModelRef) -> int:  # noqa: ARG002
        """Rows are cheap here: as many as a script may touch."""
        return BATCH

    def perform(self, model: ModelRef, bodies: Sequence[float | tuple[float, str]]) -> list[Output]:
        """For each raw output the result: ``{"score", "decision", "raw"}``.

        A raw output comes with the name of the model that made it if that stood in for the one that was asked for.
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
