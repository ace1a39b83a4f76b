"""``chaos-probe``: a model that fails on demand, so that tests from outside can bring about every failure.

It exists only where SCORELINE_CHAOS_MODEL is set (``scoreline up --chaos-model``). Its input says what each row does:
``{"x": number, "do": "ok"|"raise"|"crash"|"hang"|"nan"|"oom"|"slow"|"cuda", "seconds": number}``; the result's
``raw`` is the logistic function of ``x``. ``seconds`` is how long ``slow`` takes; with it, ``hang`` ignores its soft
time limit. ``cuda`` is an illegal access: like a real one it makes everything fail that this process runs later.

``chaos-backed`` is the same with a fallback, ``chaos-standin``, which gives half of ``x`` whatever ``do`` says.
"""

import os
import signal
import time

import torch
from torch import Tensor, nn

from scoring.vectors import OverVectors

DEEDS = ("ok", "raise", "crash", "hang", "nan", "oom", "slow", "cuda")
ILLEGAL_ADDRESS = 700
"""cudaErrorIllegalAddress."""


class ChaosProbe(OverVectors):
    """Rows are ``x``, ``seconds``, one column for each deed and one for none, as the encoder writes them."""

    def __init__(self, inputs: int) -> None:
        super().__init__(inputs)
        assert inputs == 2 + len(DEEDS) + 1
        self.weight = nn.Parameter(torch.ones(1))
        self._spoilt = False

    def forward(self, features: Tensor) -> Tensor:
        """Does what the rows say, worst first; returns log-odds ``x`` for each row."""
        told = {deed: features[:, 2 + place] > 0 for place, deed in enumerate(DEEDS)}
        if told["crash"].any():
            os.kill(os.getpid(), signal.SIGKILL)
        if told["hang"].any():
            _hang(through_soft_limit=bool((features[told["hang"], 1] > 0).any()))
        self._spoilt |= bool(told["cuda"].any())
        if self._spoilt:
            error = torch.AcceleratorError("CUDA error: an illegal memory access was encountered (chaos-probe)")
            error.error_code = ILLEGAL_ADDRESS  # type: ignore[attr-defined]
            raise error
        if told["oom"].any():
            raise torch.OutOfMemoryError("chaos-probe was told to run out of memory")
        if told["raise"].any():
            raise RuntimeError("chaos-probe was told to raise")
        time.sleep(float(features[told["slow"], 1].max()) if told["slow"].any() else 0)
        log_odds = features[:, 0] * self.weight
        return torch.where(told["nan"], torch.nan, log_odds)


def _hang(*, through_soft_limit: bool) -> None:
    while True:
        try:
            time.sleep(3600)
        except Exception:
            if not through_soft_limit:
                raise
