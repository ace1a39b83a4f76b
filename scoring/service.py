"""The scoring service: a batch of encoded features in, one raw probability for each row out."""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

import torch

from pipeline.breakers.calls import Breakers
from pipeline.breakers.window import Breaker
from pipeline.contracts.failures import ArtifactCorrupt, NotNow, OutOfMemory, describe
from pipeline.contracts.lanes import ModelRef
from pipeline.contracts.stages import Stage
from pipeline.contracts.work import Work
from pipeline.models.folder import Artifact, ModelStore
from pipeline.stage.isolation import Performed, ends_process
from pipeline.telemetry.events.stages import ModelNotReady
from scoring.canary import Canary, Reports
from scoring.device import Cpu, Device, cores_given
from scoring.model import DEFAULT_BATCH, LoadedModel
from scoring.serving import Batch, Missing, Serving, performed


class Scoring:
    """Runs any model version in the store; each is loaded and warmed once, and kept."""

    stage = Stage.SCORING

    def __init__(
        self,
        store: ModelStore,
        example_of: Callable[[Artifact], bytes],
        device: Device | None = None,
        breakers: Breakers | None = None,
        reports: Reports | None = None,
        *,
        pool: str = "",
        threads: int = 1,
    ) -> None:
        """``example_of``: a model's own example as ``preprocess`` encodes it. ``breakers`` is told of those of models.

        ``reports`` hears of the device's canary and of what is loaded; without it, there is none. Models of ``pool``
        are loaded at once, others when they are asked for. ``threads``: of CPU kernels; 0: as many as it has cores.
        """
        torch.set_num_threads(threads or cores_given())
        self._store = store
        self._example_of = example_of
        self._device = device or Cpu()
        self._breakers = breakers or Breakers()
        self._canary: Canary | None = None
        self._reports = reports
        self._cold: deque[Callable[[], None]] = deque()
        if reports is not None:
            self._canary = Canary(self._device, reports, self._warm_one_more)
            self._canary.start()
        self._models: dict[ModelRef, LoadedModel | Missing] = {}
        self._served: dict[ModelRef, Serving] = {}
        for name, version in store.versions():
            try:
                ref = store.load(name, version).ref
                if ref.pool == pool:
                    self._serving(ref)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as failure:  # noqa: BLE001 - whatever is wrong with one artifact, even if a library panics, the others are served
                ModelNotReady(model=f"{name}@{version}", reason=describe(failure)).emit()

    def _serving(self, ref: ModelRef) -> Serving:
        """The model and its fallback, warm; made when first asked for. ArtifactMissing, ArtifactCorrupt, NotNow."""
        serving = self._served.get(ref)
        if serving is None:
            artifact = self._store.open(ref)
            fallback = self._model(artifact.fallback) if artifact.fallback else None
            model = self._model(ref)
            if isinstance(model, Missing) and not isinstance(fallback, LoadedModel) and model.for_good:
                raise ArtifactCorrupt(model.reason)
            serving = self._served[ref] = Serving(
                model,
                fallback if isinstance(fallback, LoadedModel) else None,
                Breaker(partial(self._breakers.changed, f"model {ref.name}@{ref.version}")),
                artifact.manifest.get("slow_batch_s", float("inf")),
                self._canary,
            )
        return serving

    def _model(self, ref: ModelRef) -> LoadedModel | Missing:
        """A model on this device, or why it cannot be there; what passes (NotNow and the like) is raised."""
        known = self._models.get(ref)
        if known is None:
            known = self._models[ref] = self._load(self._store.open(ref))
            if isinstance(known, Missing):
                ModelNotReady(model=f"{ref.name}@{ref.version}", reason=known.reason).emit()
            else:
                self._cold.extend(known.cold_sizes())
            if self._reports is not None:
                loaded = (each for each in self._models.values() if isinstance(each, LoadedModel))
                self._reports.report_models([each.name for each in loaded])
        return known

    def _warm_one_more(self) -> bool:
        """Run a batch of a size that no warm-up had, if one is left; for when the device is idle."""
        if self._cold:
            self._cold.popleft()()
        return bool(self._cold)

    def _load(self, artifact: Artifact) -> LoadedModel | Missing:
        needs, has = artifact.manifest.get("device"), self._device.place.type
        if needs not in (None, has):
            return Missing(
                f"{artifact.ref.name} needs a device of the kind {needs}, and this worker runs on {has}", False
            )
        model = LoadedModel(artifact, self._device)
        try:
            model.warm_up(self._example_of(artifact))
        except (NotNow, OutOfMemory):
            raise
        except Exception as failure:
            if ends_process(failure) is not None:
                raise  # it says nothing about the model
            # Whatever is wrong with one model, the others are served.
            return Missing(f"not ready, its warm-up failed: {type(failure).__name__}: {describe(failure)}", True)
        return model

    def batch_limit(self, model: ModelRef) -> int:
        """The manifest's ``max_batch``, once the model is loaded."""
        loaded = self._models.get(model)
        return loaded.batch_limit if isinstance(loaded, LoadedModel) else DEFAULT_BATCH

    def overlaps(self, model: ModelRef) -> bool:
        """Whether its batches compute long enough for another to be claimed meanwhile."""
        loaded = self._models.get(model)
        return isinstance(loaded, LoadedModel) and loaded.overlaps

    def prepare(self, model: ModelRef, works: Sequence[Work]) -> Batch:
        """A batch on its way to the device."""
        return self._serving(model).prepare(works)

    def perform(self, model: ModelRef, bodies: Sequence[bytes]) -> list[Performed]:
        """For each encoded row the model's own probability, by the model itself; NaN and infinity are failures."""
        loaded = self._model(model)
        if isinstance(loaded, Missing):
            raise ArtifactCorrupt(loaded.reason)
        return [performed(answer) for answer in loaded.run(bodies)]
