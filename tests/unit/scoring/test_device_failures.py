"""What torch raises, and what becomes of a batch when memory runs out: halves, and the rows that do not fit."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, distributed

from pipeline.contracts.failures import Collective, CudaFault, DeviceLost, MemoryGone, NotNow, OutOfMemory, StageFailure
from scoring import canary as canary_module
from scoring import device as device_module
from scoring import model as model_module
from scoring.canary import Canary
from scoring.device import Cpu
from scoring.failures import kind_of
from scoring.model import LoadedModel
from scoring.pieces import Pieces
from scoring.vectors import OverVectors


def accelerator_error(code: int | None) -> torch.AcceleratorError:
    error = torch.AcceleratorError("CUDA error")
    if code is not None:
        error.error_code = code
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), OutOfMemory),
        (MemoryError(), OutOfMemory),
        (accelerator_error(2), OutOfMemory),
        (accelerator_error(700), CudaFault),
        (accelerator_error(719), CudaFault),
        (accelerator_error(None), CudaFault),
        (accelerator_error(214), DeviceLost),
        (accelerator_error(46), DeviceLost),
        (accelerator_error(9), None),
        (distributed.DistBackendError("NCCL error"), Collective),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), OutOfMemory),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"), CudaFault),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
        (ValueError("CUDA error:"), None),
    ],
)
def test_what_torch_raises_has_a_name(error: BaseException, kind: type[StageFailure] | None) -> None:
    assert kind_of(error) is kind


def test_what_the_cpus_allocator_raises_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    assert kind_of(caught.value) is OutOfMemory


class Small(OverVectors):
    """Takes ``room`` rows at a time; none with a negative number in it; gives back what it was given."""

    rows, least = 64, 1

    def __init__(self, room: int) -> None:
        super().__init__(1)
        self.room = room
        self.passes: list[int] = []

    def forward(self, features: Tensor) -> Tensor:
        self.passes.append(len(features))
        if len(features) > self.room or (features < 0).any():
            raise torch.OutOfMemoryError("CUDA out of memory")
        return features[:, 0]

    def raw(self, outputs: Tensor) -> Tensor:
        return outputs.double()


Loader = Callable[[int], tuple[LoadedModel, Small]]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Loader:
    def loaded(room: int) -> tuple[LoadedModel, Small]:
        small = Small(64)
        monkeypatch.setattr(model_module, "build", lambda _: small)
        monkeypatch.setattr(model_module.safetensors.torch, "load", lambda _: {})
        ref = SimpleNamespace(name="small", version="1")
        artifact = SimpleNamespace(manifest={"architecture": {}}, ref=ref, folder="", read=lambda _: b"")
        model = LoadedModel(artifact, Cpu())  # type: ignore[arg-type]
        model.most = 1
        model.warm_up(np.zeros(1, dtype=np.float32).tobytes())
        small.passes.clear()
        small.room = room
        return model, small

    return loaded


def rows(numbers: Sequence[float]) -> list[bytes]:
    return [np.float32(number).tobytes() for number in numbers]


def test_a_batch_that_is_too_large_is_halved_and_its_size_remembered(load: Loader) -> None:
    model, small = load(20)
    assert model.run(rows(range(64))) == list(range(64))
    assert small.passes == [64, 64, 32, 16, 16, 32, 16, 16]
    small.passes.clear()
    assert model.run(rows(range(64))) == list(range(64))
    assert small.passes == [16, 16, 16, 16]


@pytest.mark.parametrize("place", [0, 17, 63])
def test_a_row_that_does_not_fit_alone_fails_alone_and_teaches_nothing(load: Loader, place: int) -> None:
    model, small = load(64)
    answers = model.run(rows([-1.0 if number == place else number for number in range(64)]))
    assert [number for number, answer in enumerate(answers) if isinstance(answer, OutOfMemory)] == [place]
    assert [answer for answer in answers if not isinstance(answer, OutOfMemory)] == [n for n in range(64) if n != place]
    assert "even alone" in str(answers[place])
    # The batch, the batch again from the top, at most two for each halving, and the example.
    assert len(small.passes) - 1 <= 1 + 2 * 6 + 1
    small.passes.clear()
    model.run(rows(range(64)))
    assert small.passes == [64]


def test_a_batch_is_no_larger_than_half_a_second_of_what_the_model_does_lately(load: Loader) -> None:
    model, _ = load(64)
    model.most = 64
    model.warm_up(*rows([1]))
    assert model.batch_limit == 64, "the example was quick, and all rows are of its size"
    for _ in range(20):
        model.took(64, 6.4)
    assert model.batch_limit == 5
    model.took(1, 2.0)
    assert model.batch_limit == 1, "never less than one row"
    for _ in range(20):
        model.took(1, 0.001)
    assert model.batch_limit == 64


def test_where_rows_differ_in_size_batches_grow_from_few(load: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    model, small = load(64)
    model.most = 64
    monkeypatch.setattr(small, "pieces", lambda bodies: Pieces(bodies, [7] * len(bodies)))
    model.warm_up(*rows([1]))
    limits = []
    for _ in range(6):
        limits.append(model.batch_limit)
        model.took(model.batch_limit, 0.001)
    assert limits == [4, 8, 16, 32, 64, 64]


def test_sizes_between_one_row_and_the_largest_batch_are_warmed_later(load: Loader) -> None:
    model, small = load(64)
    model.most = 64
    for warm in model.cold_sizes():
        warm()
    assert small.passes == [2, 4, 8, 16, 32]
    small.room = 0
    for warm in model.cold_sizes():
        warm()  # what goes wrong then is nobody's failure


def test_where_nothing_fits_the_process_is_to_blame(load: Loader) -> None:
    model, small = load(64)
    small.room = 0
    with pytest.raises(MemoryGone, match="nothing fits"):
        model.run(rows([1, 2]))
    assert MemoryGone.ends_process


def test_other_failures_are_named_and_keep_their_cause(load: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    model, small = load(64)
    fault = accelerator_error(700)

    def spoilt(_: Tensor) -> Tensor:
        raise fault

    monkeypatch.setattr(small, "forward", spoilt)
    with pytest.raises(CudaFault) as caught:
        model.run(rows([1]))
    assert caught.value.__cause__ is fault


LIMITED = """
import resource, sys
from pathlib import Path
from pipeline.models.folder import ModelStore
from pipeline.settings import REPOSITORY
from preprocess.service import Preprocess
from scoring.service import Scoring
from pipeline.contracts.failures import OutOfMemory
from scoring.relevance import Relevance
from training.relevance_minilm import import_minilm

Relevance.rows = 64  # its own blocks would fit
import_minilm(Path(sys.argv[1]))
store = ModelStore(Path(sys.argv[1]))
preprocess = Preprocess(store)
scoring = Scoring(store, preprocess.example)
ref = store.load("relevance-minilm", "1").ref
long, short = {"query": "a", "passage": "word " * 250}, {"query": "a", "passage": "word"}
bodies = [output.body for output in preprocess.perform(ref, [long] * 64)]
before = [output.body for output in scoring.perform(ref, bodies)]
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), resource.RLIM_INFINITY))
after = scoring.perform(ref, bodies)
assert not [answer for answer in after if isinstance(answer, OutOfMemory)], after
assert [answer.body for answer in after] == before
print("fitted", scoring._models[ref]._most_padded)
"""


def test_with_little_memory_left_the_same_scores_come_in_smaller_batches(tmp_path: Path) -> None:
    """The real allocator, the real model: RLIMIT_AS leaves 256 MiB."""
    run = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        # The allocator's arenas for each thread would take of the limit what the model is to have.
        env={**os.environ, "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr[-2000:]
    fitted = int(run.stdout.splitlines()[-1].removeprefix("fitted "))
    assert fitted < model_module.MOST_PADDED


class Told:
    """Remembers what it hears of the canary."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def canary_began(self) -> None:
        self.heard.append("began")

    def canary_ended(self, *, right: bool) -> None:
        self.heard.append("right" if right else "wrong")

    def report_models(self, models: list[str]) -> None:
        self.heard += models


class Batch:
    """Something that computes."""


def test_an_idle_device_has_something_else_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary_module, "SOON_S", 0.0)
    done, all_done = [], threading.Event()

    def otherwise() -> bool:
        done.append(len(done))
        if len(done) == 3:
            all_done.set()
        return len(done) < 3

    canary = Canary(Cpu(), Told(), otherwise)
    computing = Batch()
    canary.begins(computing)
    canary.start()
    assert not done, "something computes"
    canary.ended(computing)
    assert all_done.wait(30)


def test_the_canary_is_asked_between_batches_and_not_while_one_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary_module, "EVERY_S", 0.0)
    told = Told()
    canary = Canary(Cpu(), told)
    first, second = Batch(), Batch()
    canary.begins(first)
    assert told.heard == ["began", "right"]
    canary.begins(second)
    assert told.heard == ["began", "right"], "one computes already"
    canary.ended(first)
    del second  # given up in the middle
    canary.begins(first)
    assert told.heard == ["began", "right"] * 2
    canary.refuse_if_wrong()


def test_on_a_device_that_computes_wrongly_nothing_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    canary = Canary(Cpu(), told)
    monkeypatch.setattr(canary, "_answer", canary._answer + 1)
    canary.begins(Batch())
    assert told.heard == ["began", "wrong"]
    with pytest.raises(NotNow, match="wrong"):
        canary.refuse_if_wrong()


@pytest.mark.parametrize(("limit", "cores"), [("max 100000", 8), ("150000 100000", 2), ("50000 100000", 1), ("", 8)])
def test_cores_are_those_of_the_process_or_of_its_control_group(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str, cores: int
) -> None:
    monkeypatch.setattr(device_module.os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(device_module, "CPU_MAX", tmp_path / "cpu.max")
    if limit:
        (tmp_path / "cpu.max").write_text(limit)
    assert device_module.cores_given() == cores


class Broken(Cpu):
    """A device on which nothing can be computed any more."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def stage(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(Raises(self.error) for _ in tensors)  # type: ignore[misc]


class Raises:
    """Numbers that cannot be multiplied."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __matmul__(self, other: object) -> Tensor:
        raise self.error


class Panics(BaseException):
    """No Exception."""


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: lost"), ValueError("no"), Panics("no")])
def test_a_canary_that_fails_while_nothing_computes_ends_its_process(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(canary_module, "SOON_S", 0.0)
    codes: list[int] = []
    ended, told = threading.Event(), Told()

    def end(code: int) -> None:
        codes.append(code)
        canary.stop()
        ended.set()

    canary = Canary(Broken(error), told, end=end)
    canary.start()
    assert ended.wait(30), "its thread did not end without anybody knowing"
    assert codes == [os.EX_SOFTWARE]
    assert told.heard[:2] == ["began", "right"], "it has come back: the device is not taken for one that hangs"


def test_a_context_that_is_spoilt_when_the_canary_meets_it_is_known_for_what_it_is() -> None:
    canary = Canary(Broken(RuntimeError("CUDA error: an illegal memory access was encountered")), Told())
    with pytest.raises(CudaFault, match="illegal"):
        canary.begins(Batch())
    memory = Canary(Broken(MemoryError("no")), Told())
    with pytest.raises(MemoryError):
        memory.begins(Batch())
