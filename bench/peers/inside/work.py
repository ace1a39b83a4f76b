"""All three stages as one function over a batch: the very code that Scoreline's workers run."""

from collections.abc import Sequence
from typing import Any

from pipeline.contracts.work import Output
from pipeline.models.folder import ModelStore
from pipeline.settings import settings
from postprocess.service import Postprocess
from preprocess.service import Preprocess
from scoring.service import Scoring

MODEL = "credit-default"


class Work:
    """``credit-default``, loaded once in this process, on one thread."""

    def __init__(self) -> None:
        store = ModelStore(settings().model_store)
        preprocess = Preprocess(store)
        self._ref = store.load(MODEL, "1").ref
        self._stages = (preprocess, Scoring(store, preprocess.example), Postprocess(store))
        self.score([store.load(MODEL, "1").manifest["example"]["features"]])

    def score(self, applications: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Returns the result of each application: its score, its decision, the model's raw number."""
        bodies: list[Any] = list(applications)
        for stage in self._stages:
            outputs = stage.perform(self._ref, bodies)
            bodies = [output.body for output in outputs if isinstance(output, Output)]
        assert len(bodies) == len(applications), "an application was refused"
        return bodies
