"""The scoring service: a batch of encoded features in, one raw probability for each row out."""

import math
from collections.abc import Sequence

import numpy as np
import safetensors.torch
import structlog
import torch

from pipeline.contracts.failures import ArtifactCorrupt, NumericFailure
from pipeline.contracts.lanes import ModelRef
from pipeline.contracts.stages import Stage
from pipeline.contracts.work import Output
from pipeline.model_store import Artifact, ModelStore
from scoring.architectures import build

log = structlog.get_logger()
DEFAULT_BATCH = 64


class LoadedModel:
    """A model version in memory, ready to run."""

    def __init__(self, artifact: Artifact) -> None:
        manifest = artifact.manifest
        self._module = build(manifest["architecture"])
        try:
            self._module.load_state_dict(safetensors.torch.load(artifact.read("model.safetensors")))
        except (RuntimeError, safetensors.SafetensorError) as error:
            raise ArtifactCorrupt(f"{artifact.folder}: the weights do not fit the architecture: {error}") from error
        self._module.eval()
        self._inputs = manifest["architecture"]["config"]["inputs"]
        self.batch_limit: int = manifest.get("max_batch", DEFAULT_BATCH)

    def warm_up(self) -> None:
        """Run batches of one and of the largest size: the first real request finds everything allocated."""
        row = bytes(4 * self._inputs)
        for size in (1, self.batch_limit):
            self.run([row] * size)

    @torch.inference_mode()
    def run(self, vectors: Sequence[bytes]) -> list[float]:
        """P(default) before calibration for each encoded row (float32 bytes)."""
        features = np.frombuffer(b"".join(vectors), dtype=np.float32).reshape(len(vectors), self._inputs)
        log_odds = self._module(torch.from_numpy(features.copy()))
        return torch.sigmoid(log_odds.double()).tolist()


class Scoring:
    """Runs any model version in the store; each is loaded once and kept."""

    stage = Stage.SCORING

    def __init__(self, store: ModelStore) -> None:
        # Small models gain nothing from threads, and the other services want the cores.
        torch.set_num_threads(1)
        self._store = store
        self._models: dict[ModelRef, LoadedModel] = {}
        self._warm_up()

    def _warm_up(self) -> None:
        for name, version in self._store.versions():
            try:
                artifact = self._store.load(name, version)
                model = LoadedModel(artifact)
                model.warm_up()
            except Exception as failure:  # noqa: BLE001 - whatever is wrong with one artifact, the others are served
                log.warning("model_not_ready", model=f"{name}@{version}", reason=f"{type(failure).__name__}: {failure}")
                continue
            self._models[artifact.ref] = model

    def batch_limit(self, model: ModelRef) -> int:
        """The manifest's ``max_batch``, once the model is loaded."""
        loaded = self._models.get(model)
        return loaded.batch_limit if loaded else DEFAULT_BATCH

    def perform(self, model: ModelRef, bodies: Sequence[bytes]) -> list[Output | NumericFailure]:
        """For each row the model's own probability; NaN and infinity are failures of their row."""
        loaded = self._models.get(model)
        if loaded is None:
            loaded = self._models[model] = LoadedModel(self._store.open(model))
        return [
            Output(raw) if math.isfinite(raw) else NumericFailure("the model's output for this row is not a number")
            for raw in loaded.run(bodies)
        ]
