"""A model as it is served: itself, the model that stands in for it, and what decides between the two.

The fallback answers (``degraded``, ``scored_by``) when
- the model's breaker is open: it fails, or is too slow;
- it cannot run here: it needs a device that this worker does not have, or did not pass its warm-up;
- the request's last attempt hung in it;
- it would not be done before the request's deadline;
- the input does not fit into the device's memory, even alone.

A request that allows no degraded answer waits instead where waiting can help, and goes to the model where it cannot.
"""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.breakers.window import Breaker
from pipeline.contracts.failures import ArtifactCorrupt, NotNow, NumericFailure, OutOfMemory, StageFailure
from pipeline.contracts.stages import Stage
from pipeline.contracts.work import Output, Work
from pipeline.stage.isolation import Performed, ends_process, isolate
from scoring.canary import Canary
from scoring.model import Answer, Computation, LoadedModel

OF_THE_PROCESS = ("hang", "crash", "cuda", "device_lost")
"""Failures that end the process in which they happen: the next one learns of them from the requests."""
WEIGHT = 0.1
WAIT_S = 1.0


class Unavailable(NotNow):
    """The model cannot run here now, and the request does not want another's answer."""

    category = "model"


@dataclass(frozen=True, slots=True)
class Missing:
    """Why a model cannot run here. ``for_good``: waiting does not help."""

    reason: str
    for_good: bool


class Serving:
    """One model version with its fallback, if it has one."""

    def __init__(
        self,
        model: LoadedModel | Missing,
        fallback: LoadedModel | None,
        breaker: Breaker,
        slow_s: float = float("inf"),
        canary: Canary | None = None,
    ) -> None:
        """``slow_s``: a batch that takes longer counts as a failure. ``canary``: of the device, if it has one."""
        self.model = model
        self.fallback = fallback
        self.breaker = breaker
        self.slow_s = slow_s
        self.canary = canary
        self.usual_s = model.warm_s if isinstance(model, LoadedModel) else 0.0
        """How long a batch takes, lately."""

    def prepare(self, works: Sequence[Work]) -> "Batch":
        """A batch on its way: each request to the model, to its fallback, or back to wait."""
        if self.fallback is not None:
            self._learn_from(works)
        admitted = isinstance(self.model, LoadedModel) and (self.fallback is None or self.breaker.admits())
        return Batch(self, works, [self._way(work, admitted=admitted) for work in works])

    def _learn_from(self, works: Sequence[Work]) -> None:
        for work in works:
            for attempt in work.attempts.errors[-1:]:
                if attempt.category in OF_THE_PROCESS and attempt.stage == Stage.SCORING:
                    self.breaker.blame(attempt.at)

    def _way(self, work: Work, *, admitted: bool) -> LoadedModel | StageFailure:
        may_degrade = self.fallback is not None and work.header.allow_degraded
        if not admitted:
            if may_degrade:
                assert self.fallback is not None
                return self.fallback
            return self._unavailable()
        assert isinstance(self.model, LoadedModel)
        last = work.attempts.errors[-1] if work.attempts.errors else None
        hung = last is not None and last.category == "hang" and last.stage == Stage.SCORING
        if may_degrade and (hung or work.left_s < self.usual_s):
            assert self.fallback is not None
            return self.fallback
        return self.model

    def _unavailable(self) -> StageFailure:
        if isinstance(self.model, Missing):
            if self.model.for_good:
                return ArtifactCorrupt(self.model.reason)
            return Unavailable(self.model.reason, WAIT_S)
        return Unavailable(
            f"{self.model.name} is left alone for a while: it has failed too often", self.breaker.pause_s
        )

    def judge(self, works: Iterable[Work], answers: Iterable[Performed], seconds: float) -> None:
        """Learn from a batch that went to the model. Who had failed before proves nothing by failing again."""
        self.usual_s += WEIGHT * (seconds - self.usual_s)
        if self.fallback is None:
            return
        fresh = [
            isinstance(answer, Output)
            for work, answer in zip(works, answers, strict=True)
            if work.attempts.starts == 0 or isinstance(answer, Output)
        ]
        if fresh:
            self.breaker.record(good=2 * sum(fresh) > len(fresh) and seconds <= self.slow_s)


class Batch:
    """A batch on its way through the scoring stage."""

    def __init__(self, serving: Serving, works: Sequence[Work], ways: Sequence[LoadedModel | StageFailure]) -> None:
        self._serving = serving
        self._works = works
        self._waits = {place: way for place, way in enumerate(ways) if isinstance(way, StageFailure)}
        self._began = 0.0
        # The model first: it is what takes time.
        self._parts = [
            _Part(model, {place: works[place] for place in places}, stands_in=model is serving.fallback)
            for model in (serving.model, serving.fallback)
            if isinstance(model, LoadedModel) and (places := [place for place, way in enumerate(ways) if way is model])
        ]

    def launch(self) -> None:
        """Begin to compute."""
        if self._serving.canary is not None:
            self._serving.canary.begins(self)
        self._began = time.monotonic()
        for part in self._parts:
            part.computation.launch()

    def collect(self) -> list[Performed]:
        """An output or a failure for each request, in order."""
        canary = self._serving.canary
        try:
            if canary is not None:
                canary.refuse_if_wrong()
            return self._collected()
        finally:
            if canary is not None:
                canary.ended(self)

    def _collected(self) -> list[Performed]:
        answers: dict[int, Performed] = dict(self._waits)
        for part in self._parts:
            if any(map(ends_process, answers.values())):
                answers.update(dict.fromkeys(part.works, NotNow("another process runs it", 0.0)))
                continue
            found = part.answers()
            answers.update(found)
            if not part.stands_in:
                self._serving.judge(part.works.values(), found.values(), time.monotonic() - self._began)
                answers.update(self._stand_in(found))
        return [answers[place] for place in range(len(self._works))]

    def _stand_in(self, answers: Mapping[int, Performed]) -> dict[int, Performed]:
        """What the fallback answers in place of the model, where it is known that trying the model again is no use."""
        fallback, given_up = self._serving.fallback, self._serving.breaker.is_open
        if fallback is None or any(map(ends_process, answers.values())):
            return {}
        instead = {
            place: self._works[place]
            for place, answer in answers.items()
            if self._works[place].header.allow_degraded
            and (isinstance(answer, OutOfMemory) or (given_up and not isinstance(answer, Output)))
        }
        if not instead:
            return {}
        part = _Part(fallback, instead, stands_in=True)
        part.computation.launch()
        # If it fails as well, what was wrong with the model is the better reason.
        return {place: answer for place, answer in part.answers().items() if isinstance(answer, Output)}


class _Part:
    """The requests of a batch that go to one model, by their places in the batch."""

    def __init__(self, model: LoadedModel, works: Mapping[int, Work], *, stands_in: bool) -> None:
        self.works = works
        self.stands_in = stands_in
        self._model = model
        self.computation = Computation(model, [work.body for work in works.values()])

    def answers(self) -> dict[int, Performed]:
        """For each place its output or failure; what failed as a whole is searched for the offending rows."""
        launched: Computation | None = self.computation

        def perform(bodies: Sequence[bytes]) -> list[Performed]:
            nonlocal launched
            computation, launched = launched, None
            if computation is None:
                return [self._performed(number) for number in self._model.run(bodies)]
            numbers = computation.collect()
            if computation.took_s:
                self._model.took(len(bodies), computation.took_s)
            return [self._performed(number) for number in numbers]

        return dict(zip(self.works, isolate(perform, [work.body for work in self.works.values()]), strict=True))

    def _performed(self, answer: Answer) -> Performed:
        if self.stands_in and isinstance(answer, float) and math.isfinite(answer):
            # Postprocess calibrates it as the model that it comes from.
            return Output([answer, self._model.name], scored_by=self._model.name)
        return performed(answer)


def performed(answer: Answer) -> Performed:
    """A model's answer as the stage's; NaN and infinity are failures of their row."""
    if isinstance(answer, OutOfMemory):
        return answer
    return (
        Output(answer) if math.isfinite(answer) else NumericFailure("the model's output for this row is not a number")
    )
