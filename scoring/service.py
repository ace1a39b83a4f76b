"""The scoring service: a batch of encoded features in, one raw probability for each row out."""

import math
from collections.abc import Callable, Sequence

import safetensors.torch
import structlog
import torch
from torch import Tensor

from pipeline.contracts.failures import ArtifactCorrupt, NumericFailure
from pipeline.contracts.lanes import ModelRef
from pipeline.contracts.stages import Stage
from pipeline.contracts.work import Output
from pipeline.model_store import Artifact, ModelStore
from scoring.architectures import build
from scoring.pieces import grouped

log = structlog.get_logger()
DEFAULT_BATCH = 64
MOST_PADDED = 16_384
"""How large a group of pieces may be, padding included (tokens, for text), if the manifest does not say."""


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
        self._most_padded: int = manifest.get("max_padded", MOST_PADDED)
        self.batch_limit: int = manifest.get("max_batch", DEFAULT_BATCH)

    def warm_up(self, example: bytes) -> None:
        """Run an encoded example alone and as the largest batch: the first request finds everything allocated."""
        for size in (1, self.batch_limit):
            self.run([example] * size)

    @torch.inference_mode()
    def run(self, bodies: Sequence[bytes]) -> list[float]:
        """The model's own number for each encoded row, in 0..1 (or none at all: NaN)."""
        pieces, sizes = self._module.pieces(bodies)
        outputs: list[Tensor] = []
        order: list[int] = []
        for group in grouped(sizes, self._most_padded):
            outputs.append(self._module(*self._module.stage([pieces[place] for place in group])))
            order += group
        together = torch.cat(outputs)
        in_place = torch.empty_like(together)
        in_place[torch.tensor(order)] = together
        return self._module.raw(in_place).tolist()


class Scoring:
    """Runs any model version in the store; each is loaded once and kept."""

    stage = Stage.SCORING

    def __init__(self, store: ModelStore, example_of: Callable[[Artifact], bytes]) -> None:
        """``example_of``: a model's own example as ``preprocess`` encodes it."""
        # Small models gain nothing from threads, and the other services want the cores.
        torch.set_num_threads(1)
        self._store = store
        self._models: dict[ModelRef, LoadedModel] = {}
        self._warm_up(example_of)

    def _warm_up(self, example_of: Callable[[Artifact], bytes]) -> None:
        for name, version in self._store.versions():
            try:
                artifact = self._store.load(name, version)
                model = LoadedModel(artifact)
                model.warm_up(example_of(artifact))
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
