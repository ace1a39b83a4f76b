"""What the models give offline: the stages' own code over the same inputs, in this process, without any of the rest."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import orjson

from chaos.checker import Expected, Sent
from pipeline.contracts.lanes import ModelRef
from pipeline.contracts.stages import Stage
from pipeline.contracts.work import Output
from pipeline.models.folder import ModelStore
from pipeline.settings import Settings
from tasks.stages import load_stage

PART = 1000
EDGE = 1e-6


class Offline:
    """The models of one store. With ``SCORELINE_CHAOS_MODEL`` those that fail on demand are among them."""

    def __init__(self, settings: Settings) -> None:
        self._store = ModelStore(settings.model_store)
        self._preprocess, self._scoring, self._postprocess = (load_stage(stage, settings) for stage in Stage)

    def expected(self, sent: Iterable[Sent]) -> dict[bytes, Expected]:
        """For each request its result, by its key. Poison has none but its fallback's, if its model has one."""
        by_model: dict[str, list[Sent]] = defaultdict(list)
        for one in sent:
            if one.answer != "refused":
                by_model[one.model].append(one)
        expected: dict[bytes, Expected] = {}
        for model, of_model in by_model.items():
            for place in range(0, len(of_model), PART):
                expected |= self._of(model, of_model[place : place + PART])
        return expected

    def _of(self, model: str, sent: Sequence[Sent]) -> dict[bytes, Expected]:
        artifact = self._store.load(model, "1")
        edges = [band["below"] for band in artifact.manifest["bands"]]
        encoded = self._outputs(self._preprocess.perform, artifact.ref, [orjson.loads(one.features) for one in sent])

        def results(by: ModelRef, bodies: Sequence[Any]) -> list[Expected]:
            raw = self._outputs(self._scoring.perform, by, bodies)
            name = f"{by.name}@{by.version}"
            if by != artifact.ref:
                raw = [(one, name) for one in raw]
            found = self._outputs(self._postprocess.perform, artifact.ref, raw)
            return [Expected(one, any(abs(one["score"] - edge) <= EDGE for edge in edges), name=name) for one in found]

        sound = [place for place, one in enumerate(sent) if not one.poison]
        own = dict(zip(sound, results(artifact.ref, [encoded[place] for place in sound]), strict=True))
        instead = results(artifact.fallback, encoded) if artifact.fallback else [None] * len(sent)
        return {
            one.key: Expected(
                own[place].result if place in own else None, place in own and own[place].near_band, instead[place]
            )
            for place, one in enumerate(sent)
            if place in own or instead[place] is not None
        }

    @staticmethod
    def _outputs(perform: Callable[..., Sequence[Any]], model: ModelRef, bodies: Sequence[Any]) -> list[Any]:
        outputs = []
        for answer in perform(model, bodies):
            assert isinstance(answer, Output), f"{model.name} fails offline: {answer}"
            outputs.append(answer.body)
        return outputs
