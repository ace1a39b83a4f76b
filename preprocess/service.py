"""The preprocess service: features in; out comes what the model reads, packed vectors or packed token ids."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.contracts.failures import ArtifactCorrupt, InvalidInput
from pipeline.contracts.features import feature_names, with_names
from pipeline.contracts.lanes import ModelRef
from pipeline.contracts.stages import Stage
from pipeline.contracts.strict_json import parse
from pipeline.contracts.work import Output
from pipeline.models.artifacts import Artifact
from pipeline.models.folder import ModelStore
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
        try:
            self.encoder = self._encoder(artifact)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            raise ArtifactCorrupt(f"{artifact.folder}: preprocess.json: {reason}") from error

    def _encoder(self, artifact: Artifact) -> Encoder | TextPair:
        document = parse(artifact.read("preprocess.json"))
        texts = document.get("kind") == "text-pair"
        read = document["fields"] if texts else [column["name"] for column in document["columns"]]
        strange = [name for name in read if name not in self.names]
        if strange:
            # It would be missing from every request.
            raise ValueError(f"reads {', '.join(map(str, strange))}, which the input schema does not have")
        return TextPair(document, artifact.read("tokenizer.json")) if texts else Encoder(document)


class Preprocess:
    """Validates, encodes and marks anomalies for any version in the model store."""

    stage = Stage.PREPROCESS

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._models: dict[ModelRef, _Model] = {}

    def batch_limit(self, model: ModelRef) -> int:  # noqa: ARG002
        """Returns how many rows make a batch: rows are cheap here, so as many as a script may touch."""
        return BATCH

    def example(self, artifact: Artifact) -> bytes:
        """Returns the manifest's example as its model reads it; ArtifactCorrupt if it is not valid input."""
        (output,) = self.perform(artifact.ref, [artifact.manifest["example"]["features"]])
        if isinstance(output, InvalidInput):
            raise ArtifactCorrupt(f"{artifact.folder}: the manifest's example is not valid: {output}")
        body: bytes = output.body
        return body

    def perform(self, model: ModelRef, bodies: Sequence[Mapping[str, Any] | list[Any]]) -> list[Output | InvalidInput]:
        """Returns for each row its encoded form, or what is wrong with its features. Rows may lack feature names."""
        loaded = self._models.get(model)
        if loaded is None:
            loaded = self._models[model] = _Model(self._store, model)
        rows = [with_names(body, loaded.names) for body in bodies]
        problems = [loaded.schema.problems(features) for features in rows]
        valid = [features for features, wrong in zip(rows, problems, strict=True) if not wrong]
        outputs = iter(loaded.encoder.outputs(valid))
        return [InvalidInput("; ".join(wrong)) if wrong else next(outputs) for wrong in problems]
