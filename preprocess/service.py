"""The preprocess service: features in, what the model reads out: packed vectors, or packed token ids."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.contracts.failures import ArtifactCorrupt, InvalidInput
from pipeline.contracts.features import feature_names, with_names
from pipeline.contracts.lanes import ModelRef
from pipeline.contracts.stages import Stage
from pipeline.contracts.work import Output
from pipeline.model_store import Artifact, ModelStore
from preprocess.encoding import Encoder
from preprocess.text import TextPair
from preprocess.validation import InputSchema

BATCH = 128


class _Model:
    """One model version's schema and encoder."""

    def __init__(self, store: ModelStore, ref: ModelRef) -> None:
        artifact = store.open(ref)
        self.names = feature_names(artifact.manifest["input_schema"])
        self.schema = InputSchema(artifact.manifest["input_schema"])
        document = json.loads(artifact.read("preprocess.json"))
        self.encoder: Encoder | TextPair
        if document.get("kind") == "text-pair":
            self.encoder = TextPair(document, artifact.read("tokenizer.json"))
        else:
            self.encoder = Encoder(document)


class Preprocess:
    """Validates, encodes and marks anomalies for any model version in the store."""

    stage = Stage.PREPROCESS

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._models: dict[ModelRef, _Model] = {}

    def batch_limit(self, model: ModelRef) -> int:  # noqa: ARG002
        """Rows are cheap here: as many as a script may touch."""
        return BATCH

    def example(self, artifact: Artifact) -> bytes:
        """The manifest's example as its model reads it; ArtifactCorrupt if it is not valid itself."""
        (output,) = self.perform(artifact.ref, [artifact.manifest["example"]["features"]])
        if isinstance(output, InvalidInput):
            raise ArtifactCorrupt(f"{artifact.folder}: the manifest's example is not valid: {output}")
        body: bytes = output.body
        return body

    def perform(self, model: ModelRef, bodies: Sequence[Mapping[str, Any] | list[Any]]) -> list[Output | InvalidInput]:
        """For each row its encoded form, or what is wrong with its features. Rows may come without their names."""
        loaded = self._models.get(model)
        if loaded is None:
            loaded = self._models[model] = _Model(self._store, model)
        rows = [with_names(body, loaded.names) for body in bodies]
        problems = [loaded.schema.problems(features) for features in rows]
        valid = [features for features, wrong in zip(rows, problems, strict=True) if not wrong]
        outputs = iter(loaded.encoder.outputs(valid))
        return [InvalidInput("; ".join(wrong)) if wrong else next(outputs) for wrong in problems]
