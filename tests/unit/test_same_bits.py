"""A request's numbers are a function of the request: the same bits, whatever is computed beside it."""

import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.contracts.lanes import ModelRef
from pipeline.contracts.work import Attempts, Header, Output, Progress, Work
from pipeline.models.folder import ModelStore
from pipeline.samples.credit_data import read_applications, split
from pipeline.settings import SHIPPED_MODELS
from pipeline.stage.isolation import isolate
from postprocess.service import Postprocess
from preprocess.service import Preprocess
from scoring import model as model_module
from scoring.device import Cpu
from scoring.model import LoadedModel
from scoring.service import Scoring
from scoring.vectors import OverVectors
from tests.support.emitted import emitted
from training.relevance_minilm import FALLBACK, NAME, import_minilm

TABULAR = ("credit-default", "credit-default-logistic")
TEXTUAL = (NAME, FALLBACK)
INPUTS = 26
HELD_OUT = [row.features for row in split(read_applications()).held_out]
WORDS = [*"abcdefgh", "the order", "was sent back", "money", "is returned", "to a card", "thirty days"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """Both shipped models, each with its fallback."""
    folder = tmp_path_factory.mktemp("models")
    for name in TABULAR:
        (folder / name).symlink_to(SHIPPED_MODELS / name)
    import_minilm(folder)
    return ModelStore(folder)


@pytest.fixture(scope="module")
def preprocess(store: ModelStore) -> Preprocess:
    return Preprocess(store)


@pytest.fixture(scope="module")
def scoring(store: ModelStore, preprocess: Preprocess) -> Scoring:
    return Scoring(store, preprocess.example)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def ref(store: ModelStore, name: str) -> ModelRef:
    return store.load(name, "1").ref


def vectors(count: int, seed: int = 0) -> list[bytes]:
    """Encoded rows like real ones, and some that are far from them."""
    rng = np.random.default_rng(seed)
    scales = 10 ** rng.uniform(-2, 2, (count, 1))
    return [row.tobytes() for row in (scales * rng.standard_normal((count, INPUTS))).astype(np.float32)]


def text(rng: random.Random, longest: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, longest)))


def texts(preprocess: Preprocess, of: ModelRef, count: int, seed: int = 0, longest: int = 30) -> list[bytes]:
    """Encoded pairs of texts of different lengths."""
    rng = random.Random(seed)
    pairs = [{"query": text(rng, 8), "passage": text(rng, longest)} for _ in range(count)]
    return [output.body for output in preprocess.perform(of, pairs) if isinstance(output, Output)]


def bits(answers: Sequence[Any]) -> list[Any]:
    """Numbers so that equal means the same bits; failures by class."""
    return [answer.body.hex() if isinstance(answer, Output) else type(answer).__name__ for answer in answers]


def placed(rows: Sequence[bytes], others: Sequence[bytes], size: int) -> Iterator[tuple[bytes, int, list[bytes]]]:
    """Each of ``rows``, a place, and a batch of that size with the row there: at the first, a middle, the last."""
    for number, row in enumerate(rows):
        for place in {0, size // 2, size - 1}:
            start = (number * 7 + place) % (len(others) - size)
            batch = list(others[start : start + size])
            batch[place] = row
            yield row, place, batch


def work(body: bytes, *, left_s: float = math.inf) -> Work:
    header = Header("m", "1", bytes(32), "", 1, 60_000, 0, True)
    return Work(bytes(16), 0, header, Progress(0), body, b"", Attempts(), left_s=left_s)


def collected(scoring: Scoring, of: ModelRef, works: Sequence[Work]) -> list[Any]:
    batch = scoring.prepare(of, works)
    batch.launch()
    return batch.collect()


@pytest.mark.parametrize("name", TABULAR)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_vector_has_the_same_bits_at_every_size_and_place(
    store: ModelStore, scoring: Scoring, name: str, threads: int
) -> None:
    of, rows, others = ref(store, name), vectors(6), vectors(400, seed=1)
    alone = {row: bits(scoring.perform(of, [row]))[0] for row in rows}  # by one thread
    torch.set_num_threads(threads)
    for size in range(1, 129):
        for row, place, batch in placed(rows, others, size):
            assert bits(scoring.perform(of, batch))[place] == alone[row], (size, place)
    assert len(set(alone.values())) > 1


@pytest.mark.parametrize("name", TEXTUAL)
@pytest.mark.parametrize("threads", [1, 2])
def test_two_texts_have_the_same_bits_at_every_size_and_place(
    store: ModelStore, preprocess: Preprocess, scoring: Scoring, name: str, threads: int
) -> None:
    of = ref(store, name)
    rows, others = texts(preprocess, of, 4), texts(preprocess, of, 60, seed=1)
    rows += texts(preprocess, of, 1, seed=2, longest=300)
    alone = {row: bits(scoring.perform(of, [row]))[0] for row in rows}  # by one thread
    torch.set_num_threads(threads)
    for size in (2, 3, 7, 18):
        for place in (0, size // 2, size - 1):
            batch = others[size : 2 * size]
            for number, row in enumerate(rows[:size]):
                batch[(place + number) % size] = row
            for body, found in zip(batch, bits(scoring.perform(of, batch)), strict=True):
                assert found == alone.setdefault(body, bits(scoring.perform(of, [body]))[0]), (size, place)
    assert len(set(alone.values())) > 10


@pytest.mark.parametrize("name", [TABULAR[0], TEXTUAL[0]])
def test_prepared_launched_and_collected_has_the_bits_of_perform(
    store: ModelStore, preprocess: Preprocess, scoring: Scoring, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = ref(store, name)
    rows = vectors(100) if name in TABULAR else texts(preprocess, of, 12)
    alone = [bits(scoring.perform(of, [row]))[0] for row in rows]
    assert bits(collected(scoring, of, [work(row) for row in rows])) == alone
    for beside in (True, False):  # on the device's own thread, or when it is waited for
        loaded = scoring._models[of]
        assert isinstance(loaded, LoadedModel)
        monkeypatch.setattr(loaded, "overlaps", beside)
        first = scoring.prepare(of, [work(row) for row in rows[:7]])
        second = scoring.prepare(of, [work(row) for row in rows[7:]])
        first.launch()
        second.launch()
        assert bits(first.collect()) + bits(second.collect()) == alone


@pytest.mark.parametrize("name", [TABULAR[0], TEXTUAL[0]])
def test_a_batch_shared_with_the_fallback_has_the_same_bits(
    store: ModelStore, preprocess: Preprocess, scoring: Scoring, name: str
) -> None:
    """Those that would be late go to the stand-in."""
    of, instead = ref(store, name), store.load(name, "1").fallback
    assert instead is not None
    rows = vectors(40) if name in TABULAR else texts(preprocess, of, 9)
    late = [number % 3 == 1 for number in range(len(rows))]
    found = collected(
        scoring, of, [work(row, left_s=0 if is_late else 60) for row, is_late in zip(rows, late, strict=True)]
    )
    for row, is_late, answer in zip(rows, late, found, strict=True):
        if is_late:
            number, by = answer.body
            assert by == answer.scored_by == f"{instead.name}@1"
            assert number.hex() == bits(scoring.perform(instead, [row]))[0]
        else:
            assert bits([answer]) == bits(scoring.perform(of, [row]))


HUGE, NAN, INFINITE = (np.full(INPUTS, number, dtype=np.float32).tobytes() for number in (3e38, math.nan, math.inf))


@pytest.mark.parametrize("name", TABULAR)
@pytest.mark.parametrize("bad", [HUGE, NAN, INFINITE])
def test_a_neighbour_that_is_no_number_is_judged_for_its_row_alone(
    store: ModelStore, scoring: Scoring, name: str, bad: bytes
) -> None:
    of, rows = ref(store, name), vectors(63)
    alone = bits(scoring.perform(of, rows))
    verdict = bits(scoring.perform(of, [bad]))[0]
    assert verdict == "NumericFailure" or bad == HUGE
    for place in (0, 1, 31, 62, 63):
        found = bits(scoring.perform(of, [*rows[:place], bad, *rows[place:]]))
        assert found == [*alone[:place], verdict, *alone[place:]]
    found = bits(collected(scoring, of, [work(body) for body in (bad, *rows, bad)]))
    assert found == [verdict, *alone, verdict]


@pytest.mark.parametrize("name", [TABULAR[0], TEXTUAL[0]])
@pytest.mark.parametrize("shape", ["perform", "collect"])
def test_neighbours_that_raise_leave_the_others_bits(
    store: ModelStore, preprocess: Preprocess, scoring: Scoring, name: str, shape: str
) -> None:
    """The batch is halved until the offending rows stand alone. A number too few and one too many make it whole."""
    of = ref(store, name)
    if name in TABULAR:
        rows, bad = vectors(29), [bytes(4 * INPUTS - 4), bytes(4 * INPUTS + 4)]
    else:
        rows, bad = texts(preprocess, of, 7), [np.array([1, 65_000, 101], dtype="<u2").tobytes()] * 2
    alone = bits(scoring.perform(of, rows))
    batch = [*rows[:2], bad[0], *rows[2:5], bad[1], *rows[5:]]
    if shape == "perform":
        found = bits(isolate(lambda bodies: scoring.perform(of, bodies), batch))
    else:
        found = bits(collected(scoring, of, [work(body) for body in batch]))
    failed = {found.pop(6), found.pop(2)}
    assert found == alone
    assert failed <= {"ValueError", "IndexError"}


@pytest.mark.parametrize("name", [TABULAR[0], TEXTUAL[0]])
def test_halved_for_want_of_memory_it_has_the_same_bits(
    store: ModelStore, preprocess: Preprocess, scoring: Scoring, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = ref(store, name)
    rows = vectors(64) if name in TABULAR else texts(preprocess, of, 20, longest=8)
    before = bits(scoring.perform(of, rows))
    loaded = scoring._models[of]
    assert isinstance(loaded, LoadedModel)
    whole, calls = loaded._module.forward, []

    def short_of_memory(*arguments: Tensor) -> Tensor:
        calls.append(len(arguments[0]))
        if len(calls) == 1 or (name in TEXTUAL and len(arguments[0]) > 2):
            raise torch.OutOfMemoryError("out of memory")
        return whole(*arguments)

    monkeypatch.setattr(loaded, "_most_padded", loaded._most_padded)  # it learns
    monkeypatch.setattr(loaded._module, "forward", short_of_memory)
    assert bits(scoring.perform(of, rows)) == before
    assert len(calls) > 1


def requests(name: str) -> list[dict[str, Any]]:
    if name in TABULAR:
        return HELD_OUT[:200]
    rng = random.Random(5)
    return [{"query": text(rng, 8), "passage": text(rng, 40)} for _ in range(20)]


@pytest.mark.parametrize("name", [TABULAR[0], TEXTUAL[0]])
def test_through_all_three_stages_a_request_has_one_result(
    store: ModelStore, preprocess: Preprocess, scoring: Scoring, name: str
) -> None:
    of, postprocess = ref(store, name), Postprocess(store)

    def results(batch: Sequence[Any]) -> list[str]:
        encoded = preprocess.perform(of, batch)
        scored = collected(scoring, of, [work(output.body) for output in encoded if isinstance(output, Output)])
        return [repr(output.body) for output in postprocess.perform(of, [answer.body for answer in scored])]

    rows = requests(name)
    alone = [results([row])[0] for row in rows]
    assert results([rows[0], rows[0]]) == [alone[0]] * 2
    rng = random.Random(3)
    for size in (2, 3, 5, 17, 64, 128):
        order = rng.sample(range(len(rows)), len(rows))
        for start in range(0, len(order), size):
            chunk = order[start : start + size]
            assert results([rows[number] for number in chunk]) == [alone[number] for number in chunk]


def test_encoding_gives_a_row_the_same_bits_at_every_size_and_place(store: ModelStore, preprocess: Preprocess) -> None:
    of = ref(store, TABULAR[0])

    def encoded(rows: Sequence[Any]) -> list[tuple[bytes, Any]]:
        return [
            (output.body, output.anomalies) for output in preprocess.perform(of, rows) if isinstance(output, Output)
        ]

    alone = [encoded([row])[0] for row in HELD_OUT]
    for size in range(2, 129):
        start = size % 7
        for at in range(start, start + 3 * size, size):
            assert encoded(HELD_OUT[at : at + size]) == alone[at : at + size]


class Uneven(OverVectors):
    """Gives a row other numbers in other shapes, as kernels may; and, if told to, at other places."""

    rows, least = 16, 1

    def __init__(self) -> None:
        super().__init__(1)
        self.shapes: set[int] = set()

    def forward(self, features: Tensor) -> Tensor:
        self.shapes.add(len(features))
        return features[:, 0] + 1e-6 * len(features)


class Inexact(Cpu):
    """A device whose kernels promise nothing."""

    exact = False


def loaded(module: OverVectors, device: Cpu, monkeypatch: pytest.MonkeyPatch) -> LoadedModel:
    monkeypatch.setattr(model_module, "build", lambda _: module)
    monkeypatch.setattr(model_module.safetensors.torch, "load", lambda _: {})
    named = SimpleNamespace(name="uneven", version="1")
    artifact = SimpleNamespace(manifest={"architecture": {}}, ref=named, folder=Path(), read=lambda _: b"")
    model = LoadedModel(artifact, device)  # type: ignore[arg-type]
    model.warm_up(np.zeros(1, dtype=np.float32).tobytes())
    module.shapes.clear()  # type: ignore[operator, union-attr]
    return model


def numbers(*values: float) -> list[bytes]:
    return [np.float32(value).tobytes() for value in values]


def test_where_the_size_of_a_block_changes_the_example_all_have_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Uneven()
    with emitted() as events:
        model = loaded(module, Cpu(), monkeypatch)
    assert [event.name for event in events] == ["answers_differ_by_block"]
    (alone,) = model.run(numbers(0.5))
    for size in range(1, 40):
        assert model.run(numbers(*[0.5] * size)) == [alone] * size
    assert module.shapes == {16}
    assert model.cold_sizes() == []


def test_on_a_device_that_promises_less_numbers_are_rounded_and_blocks_have_one_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = Uneven()
    model = loaded(module, Inexact(), monkeypatch)
    (alone,) = model.run(numbers(0.25))
    assert alone == round(alone, 5)
    monkeypatch.setattr(module, "forward", lambda features: features[:, 0] + 1e-7 * torch.arange(len(features)))
    assert set(model.run(numbers(*[0.25] * 64))) == {round(float(torch.sigmoid(torch.tensor(0.25))), 5)}
    assert module.shapes == {16}
    assert model.run(numbers(0.25, math.nan))[0] == model.run(numbers(0.25))[0]
