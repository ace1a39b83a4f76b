"""The stages' own code: validation, encoding, calibration, artifacts. No Celery, no Redis."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch

from pipeline.contracts.failures import (
    ArtifactCorrupt,
    ArtifactMissing,
    CudaFault,
    InvalidInput,
    MemoryGone,
    SoftLimit,
)
from pipeline.contracts.lanes import ModelRef
from pipeline.contracts.work import Output
from pipeline.models.folder import ModelStore
from pipeline.samples.credit_data import read_applications, split
from pipeline.settings import SHIPPED_MODELS
from postprocess.service import Decision, Postprocess
from preprocess.encoding import Encoder
from preprocess.service import Preprocess
from preprocess.validation import InputSchema
from scoring.model import LoadedModel
from scoring.service import Scoring

MODELS = SHIPPED_MODELS
STORE = ModelStore(MODELS)
REF = next(artifact.ref for artifact in STORE.all() if artifact.ref.name == "credit-default")
HELD_OUT = split(read_applications()).held_out

ENCODING = {
    "columns": [
        {
            "name": "n", "kind": "number", "log": True, "fill": 0.0, "mean": 1.0, "scale": 2.0, "low": 0.0,
            "high": 100.0, "far": 1.5, "marks_gaps": True,
        },
        {"name": "c", "kind": "category", "values": ["a", "b"]},
    ]
}  # fmt: skip


def test_encoding_standardises_marks_gaps_and_spreads_categories() -> None:
    rows = [{"n": np.e - 1, "c": "b"}, {"n": None, "c": None}]
    assert Encoder(ENCODING).encode(rows)[0].tolist() == [[0.0, 0.0, 0.0, 1.0, 0.0], [-0.5, 1.0, 0.0, 0.0, 1.0]]


def test_anomalies_are_out_of_range_outlier_or_unseen() -> None:
    rows = [{"n": 101, "c": "a"}, {"n": 99, "c": "z"}, {"n": 5, "c": "a"}, {"n": None, "c": None}]
    _, found = Encoder(ENCODING).encode(rows)
    assert [[(entry["feature"], entry["kind"]) for entry in row] for row in found] == [
        [("n", "out_of_range")], [("n", "outlier"), ("c", "unseen")], [], [],
    ]  # fmt: skip


def test_columns_keep_the_order_of_the_manifest() -> None:
    number, category = ENCODING["columns"]
    columns = [number, {**number, "name": "m", "log": False, "marks_gaps": False}, category, {**number, "name": "o"}]
    encoded, found = Encoder({"columns": columns}).encode([{"n": 0, "m": 101, "c": "a", "o": None}])
    assert encoded.tolist() == [[-0.5, 0.0, 50.0, 1.0, 0.0, 0.0, -0.5, 1.0]]
    assert [entry["feature"] for entry in found[0]] == ["m"]
    expected = {"min": 0.0, "max": 100.0}
    assert found[0][0] == {"feature": "m", "value": 101, "kind": "out_of_range", "expected": expected}


def test_an_empty_batch_encodes_to_nothing() -> None:
    assert Encoder(ENCODING).encode([])[0].shape == (0, 5)


def test_messages_name_the_feature_what_it_was_and_what_is_allowed() -> None:
    schema = InputSchema(
        {
            "properties": {"a": {"type": "integer", "minimum": 1}, "b": {"type": ["string", "null"]}},
            "required": ["a"],
            "additionalProperties": False,
            "type": "object",
        }
    )
    assert schema.problems({"a": 1, "b": None}) == []
    assert schema.problems({"b": 3, "c": 1}) == [
        "a: is missing; allowed: an integer of at least 1",
        "b: was 3; allowed: a string, or null",
        "c: is not a feature of this model; allowed: a, b",
    ]
    assert schema.problems({"a": float("nan")}) == ["a: was nan; allowed: an integer of at least 1"]


def test_a_batch_keeps_its_order_around_invalid_rows() -> None:
    rows = [HELD_OUT[0].features, {}, HELD_OUT[1].features]
    answers = Preprocess(STORE).perform(REF, rows)
    assert [type(answer) for answer in answers] == [Output, InvalidInput, Output]
    alone = Preprocess(STORE).perform(REF, [HELD_OUT[1].features])
    assert answers[2] == alone[0]


def test_a_rows_score_does_not_depend_on_its_batch() -> None:
    vectors = [answer.body for answer in Preprocess(STORE).perform(REF, [row.features for row in HELD_OUT[:64]])]
    scoring = Scoring(STORE, Preprocess(STORE).example)
    together = [answer.body for answer in scoring.perform(REF, vectors)]
    alone = [scoring.perform(REF, [vector])[0].body for vector in vectors]
    assert together == alone


def test_decisions_follow_the_bands_at_their_edges() -> None:
    bands = [
        {"below": 0.2, "decision": "approve"},
        {"below": 0.5, "decision": "review"},
        {"below": 1.0, "decision": "decline"},
    ]
    decision = Decision({"calibration": {"method": "platt", "slope": 1.0, "intercept": 0.0}, "bands": bands})
    assert [decision.decide(score) for score in (0, 0.1999, 0.2, 0.4999, 0.5, 1.0)] == [
        "approve", "approve", "review", "review", "decline", "decline",
    ]  # fmt: skip
    assert decision.calibrated(0.3) == pytest.approx(0.3)
    assert 0 <= decision.calibrated(0.0) < decision.calibrated(1.0) <= 1


def test_the_result_is_score_decision_and_raw() -> None:
    result = Postprocess(STORE).perform(REF, [0.9])[0].body
    assert set(result) == {"score", "decision", "raw"}
    assert result["raw"] == 0.9


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(MODELS, tmp_path / "models")
    return tmp_path / "models"


def test_a_changed_file_is_refused_before_it_is_parsed(copy: Path) -> None:
    weights = copy / "credit-default" / "1" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ArtifactCorrupt, match="SHA-256 differs"):
        ModelStore(copy).open(REF).read("model.safetensors")


def test_a_changed_manifest_is_not_what_was_pinned(copy: Path) -> None:
    manifest = copy / "credit-default" / "1" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"max_batch": 64', '"max_batch": 65'))
    with pytest.raises(ArtifactCorrupt, match="was pinned with digest"):
        ModelStore(copy).open(REF)


def test_a_missing_version_or_file_says_which(copy: Path) -> None:
    with pytest.raises(ArtifactMissing, match=r"manifest\.json cannot be read"):
        ModelStore(copy).open(ModelRef("credit-default", "9", REF.digest))
    with pytest.raises(ArtifactMissing, match="cannot be the name"):
        ModelStore(copy).open(ModelRef("..", "1", REF.digest))
    (copy / "credit-default" / "1" / "preprocess.json").unlink()
    with pytest.raises(ArtifactMissing, match=r"preprocess\.json cannot be read"):
        ModelStore(copy).open(REF).read("preprocess.json")


def test_a_broken_artifact_does_not_keep_the_others_from_being_served(copy: Path) -> None:
    broken = copy / "credit-default" / "2"
    shutil.copytree(copy / "credit-default" / "1", broken)
    document = json.loads((broken / "manifest.json").read_text()) | {"version": "2"}
    (broken / "manifest.json").write_text(json.dumps(document))
    (broken / "model.safetensors").write_bytes(b"not the weights")
    assert {("credit-default", "1"), ("credit-default", "2")} < set(ModelStore(copy).versions())
    vector = Preprocess(STORE).perform(REF, [HELD_OUT[0].features])[0].body
    assert isinstance(Scoring(ModelStore(copy), Preprocess(STORE).example).perform(REF, [vector])[0], Output)


def test_one_broken_artifact_keeps_no_other_model_from_being_served(tmp_path: Path) -> None:
    shutil.copytree(MODELS, tmp_path / "models")
    broken = tmp_path / "models" / "broken" / "1"
    broken.mkdir(parents=True)
    manifest = json.loads((MODELS / "credit-default" / "1" / "manifest.json").read_text())
    manifest |= {"name": "broken", "architecture": {"id": "mlp", "config": {"inputs": "many"}}}
    (broken / "manifest.json").write_text(json.dumps(manifest))
    scoring = Scoring(ModelStore(tmp_path / "models"), Preprocess(STORE).example)
    (answer,) = scoring.perform(REF, [bytes(4 * 26)])
    assert isinstance(answer, Output)


class PanicException(BaseException):
    """As pyo3 raises it when Rust code panics; it is no Exception."""


def test_a_library_that_panics_over_one_artifact_keeps_no_other_model_from_being_served(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker would not even start, and start again for ever."""
    load = safetensors.torch.load

    def panics_first(weights: bytes) -> Any:
        monkeypatch.setattr(safetensors.torch, "load", load)
        raise PanicException("in the library")

    monkeypatch.setattr(safetensors.torch, "load", panics_first)
    scoring = Scoring(ModelStore(copy), Preprocess(STORE).example)
    vector = Preprocess(STORE).perform(REF, [HELD_OUT[0].features])[0].body
    assert isinstance(scoring.perform(REF, [vector])[0], Output)


@pytest.mark.parametrize("error", [SoftLimit("too long"), CudaFault("illegal"), MemoryGone("nothing fits")])
def test_what_interrupts_a_warm_up_is_no_fault_of_the_model(
    copy: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    scoring = Scoring(ModelStore(copy), Preprocess(STORE).example, pool="no model is loaded yet")
    warm_up = LoadedModel.warm_up

    def interrupted(self: LoadedModel, example: bytes) -> None:
        monkeypatch.setattr(LoadedModel, "warm_up", warm_up)
        raise error

    monkeypatch.setattr(LoadedModel, "warm_up", interrupted)
    vector = Preprocess(STORE).perform(REF, [HELD_OUT[0].features])[0].body
    with pytest.raises(type(error)):
        scoring.perform(REF, [vector])
    assert isinstance(scoring.perform(REF, [vector])[0], Output), "it is loaded when it is asked for again"


@pytest.mark.parametrize("missing", ["architecture", "input_schema", "files"])
def test_a_manifest_that_lacks_a_part_is_refused(tmp_path: Path, missing: str) -> None:
    shutil.copytree(MODELS, tmp_path / "models")
    path = tmp_path / "models" / "credit-default" / "1" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest[missing]
    path.write_text(json.dumps(manifest))
    with pytest.raises(ArtifactCorrupt, match=f"lacks {missing}"):
        ModelStore(tmp_path / "models").load("credit-default", "1")
