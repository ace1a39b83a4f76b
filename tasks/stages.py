"""The one place where a stage's name becomes its service.

A stage's own code is imported by need: only a scoring worker ever loads torch.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipeline.breakers.calls import Breakers
from pipeline.contracts.stages import Stage
from pipeline.models.folder import ModelStore
from pipeline.settings import Settings
from pipeline.stage.protocols import StageService
from pipeline.worker.slots import Slot


@dataclass(frozen=True, slots=True)
class StageContext:
    """What a stage's service may need of the process it runs in.

    ``device``: as torch names it; ``pool``: of models. Scoring alone has them.
    """

    settings: Settings
    store: ModelStore
    breakers: Breakers | None = None
    slot: Slot | None = None
    device: str = "cpu"
    pool: str = ""


def _preprocess(context: StageContext) -> StageService:
    from preprocess.service import Preprocess

    return Preprocess(context.store)


def _scoring(context: StageContext) -> StageService:
    from preprocess.service import Preprocess
    from scoring.device import open_device
    from scoring.service import Scoring

    return Scoring(
        context.store,
        Preprocess(context.store).example,
        open_device(context.device),
        context.breakers,
        context.slot,
        pool=context.pool,
        threads=context.settings.torch_threads,
    )


def _postprocess(context: StageContext) -> StageService:
    from postprocess.service import Postprocess

    return Postprocess(context.store)


SERVICES: Mapping[Stage, Callable[[StageContext], StageService]] = {
    Stage.PREPROCESS: _preprocess,
    Stage.SCORING: _scoring,
    Stage.POSTPROCESS: _postprocess,
}


def load_stage(
    stage: Stage,
    settings: Settings,
    breakers: Breakers | None = None,
    slot: Slot | None = None,
    device: str = "cpu",
    pool: str = "",
) -> StageService:
    """Makes a stage's service over the model store of the settings. Without a slot it reports to no parent."""
    store = ModelStore(settings.model_store, breakers)
    return SERVICES[stage](StageContext(settings, store, breakers, slot, device, pool))


def preload(stage: Stage) -> None:
    """Imports, in the parent, what its children need: a child that replaces another then serves seconds earlier.

    Importing torch starts no threads and touches no device; models are loaded, and CUDA begins, in the children.
    """
    importlib.import_module(f"{stage}.service")
