"""The preprocess service: features in, packed float32 vectors out."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.contracts.failures import InvalidInput
from pipeline.contracts.lanes import ModelRef
from pipeline.contracts.stages import Stage
from pipeline.contracts.work import Output
from pipeline.model_store import ModelStore
from preprocess.encoding import Encoder
from preprocess.validation import InputSchema

BATCH = 128


class _Model:
    """One model version's schema and encoder."""

    def __init__(self, store: ModelStore, ref: ModelRef) -> None:
        artifact = store.open(ref)
        self.schema = InputSchema(artifact.manifest["input_schema"])
        self.encoder = Encoder(json.loads(artifact.read("preprocess.json")))


class Preprocess:
    """Validates, encodes and marks anomalies for any model version in the store."""

    stage = Stage.PREPROCESS

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._models: dict[ModelRef, _Model] = {}

    def batch_limit(self, model: ModelRef) -> int:  # noqa: ARG002
        """Rows are cheap here: as many as a script may touch."""
        return BATCH

    def perform(self, model: ModelRef, bodies: Sequence[Mapping[str, Any]]) -> list[Output | InvalidInput]:
        """For each row its encoded vector (float32 bytes), or what is wrong with its features."""
        loaded = self._models.get(model)
        if loaded is None:
            loaded = self._models[model] = _Model(self._store, model)
        problems = [loaded.schema.problems(features) for features in bodies]
        valid = [features for features, wrong in zip(bodies, problems, strict=True) if not wrong]
        vectors = iter(loaded.encoder.encode(valid))
        anomalies = iter(loaded.encoder.anomalies(valid))
        return [
            InvalidInput("; ".join(wrong)) if wrong else Output(next(vectors).tobytes(), next(anomalies))
            for wrong in problems
        ]
