"""Tasks of a plain Celery chain: a stage's own code over one row, JSON in and out; and the command of their worker."""

from typing import Any

import numpy as np

from pipeline.contracts.stages import Stage
from pipeline.contracts.work import Output
from pipeline.models.folder import ModelStore
from pipeline.service.entry_points import command
from pipeline.settings import settings
from pipeline.stage.protocols import StageService
from tasks.stages import load_stage

MODEL = "credit-default"


class PlainTask:
    """One stage of ``credit-default``, loaded in this process."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._ref = ModelStore(settings().model_store).load(MODEL, "1").ref
        self._service: StageService = load_stage(stage, settings())

    def run(self, body: Any) -> Any:
        """Runs one row. Features become a vector, a vector becomes a raw number, and that becomes a result."""
        if self._stage is Stage.SCORING:
            body = np.array(body, dtype=np.float32).tobytes()
        answer = self._service.perform(self._ref, [body])[0]
        assert isinstance(answer, Output), answer
        if self._stage is Stage.PREPROCESS:
            return [float(value) for value in np.frombuffer(answer.body, dtype=np.float32)]
        return float(answer.body) if self._stage is Stage.SCORING else dict(answer.body)


def plain_worker(app: str, stage: Stage, name: str) -> list[str]:
    """Returns the command of a stock Celery worker: prefork, one process, the stage's queue alone."""
    start = command("celery", "-A", app, "worker", "-P", "prefork", "-c", "1")
    return [*start, "-Q", stage, "-n", f"{name}@%h", "--without-mingle", "--without-gossip"]
