"""The model store: what stands in it beside model versions is named, and stops nothing."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.contracts.failures import ArtifactCorrupt, ArtifactMissing
from pipeline.contracts.lanes import ModelRef
from pipeline.models import folder as model_store
from pipeline.models.folder import ArtifactExists, ModelStore, write_artifact
from pipeline.settings import SHIPPED_MODELS
from preprocess.service import Preprocess
from scoring.service import Scoring
from tests.support.model_folders import strays

GOOD = {("credit-default", "1"), ("credit-default-logistic", "1")}
MANIFEST = {"name": "m", "version": "1", "architecture": {}, "input_schema": {}}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    shutil.copytree(SHIPPED_MODELS, tmp_path / "models")
    return tmp_path / "models"


def test_what_is_no_version_is_named_and_the_others_are_found(models: Path) -> None:
    expected = strays(models)
    artifacts, refused = ModelStore(models).scan()
    assert {(artifact.ref.name, artifact.ref.version) for artifact in artifacts} == GOOD
    assert {each.place for each in refused} == expected.keys()
    for each in refused:
        assert expected[each.place] in each.reason


def test_a_scoring_worker_loads_the_versions_that_are_right_beside_strays(models: Path) -> None:
    strays(models)
    store = ModelStore(models)
    scoring = Scoring(store, Preprocess(store).example)
    assert {(ref.name, ref.version) for ref in scoring._served} == GOOD


def test_a_folder_that_cannot_be_read_is_named(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (models / "locked").mkdir()
    (models / "credit-default" / "2").mkdir()
    known = Path.iterdir, os.access

    def iterdir(path: Path) -> Any:
        if path.name == "locked":
            raise PermissionError(13, "Permission denied")
        return known[0](path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "2" and known[1](path, mode))
    artifacts, refused = ModelStore(models).scan()
    assert len(artifacts) == 2
    assert {each.place: each.reason for each in refused} == {
        "locked": "cannot be read: Permission denied",
        "credit-default/2": "cannot be read",
    }


def test_a_store_that_is_not_there_is_said_so_and_holds_nothing(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "nothing")
    with pytest.raises(ArtifactMissing, match="cannot be read: No such file"):
        store.scan()
    assert store.versions() == []


def test_versions_come_in_the_order_of_their_numbers(models: Path) -> None:
    for version in ("2", "10", "9", "1.10", "1.9", "9" * 32):
        shutil.copytree(models / "credit-default" / "1", models / "credit-default" / version)
    found = [version for name, version in ModelStore(models).versions() if name == "credit-default"]
    assert [each for each in found if len(each) < 32] == ["1", "1.9", "1.10", "2", "9", "10"]


def test_a_file_of_another_size_is_not_read(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = ModelStore(models).load("credit-default", "1")
    with (models / "credit-default" / "1" / "model.safetensors").open("ab") as weights:
        weights.truncate(1 << 40)
    with pytest.raises(ArtifactCorrupt, match="its size is 1099511627776, not 15820"):
        artifact.check()


def test_a_fallback_must_be_there_as_it_was_pinned(models: Path) -> None:
    store = ModelStore(models)
    artifact = store.load("credit-default", "1")
    store.check(artifact)
    (models / "credit-default-logistic" / "1" / "preprocess.json").unlink()
    with pytest.raises(ArtifactCorrupt, match=r"the fallback cannot stand in: .*preprocess\.json cannot be read"):
        store.check(artifact)
    shutil.rmtree(models / "credit-default-logistic")
    with pytest.raises(ArtifactCorrupt, match="the fallback cannot stand in"):
        store.check(artifact)


def test_names_do_not_lead_out_of_the_store(models: Path) -> None:
    for name, version in (("..", "1"), ("credit-default", ".."), ("credit-default\n", "1"), ("a/b", "1")):
        with pytest.raises(ArtifactMissing, match="cannot be the name"):
            ModelStore(models).open(ModelRef(name, version, "0" * 64))


def test_an_artifact_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space"):
            write_artifact(tmp_path, MANIFEST, {"x": b"1"})
    assert list((tmp_path / "m").iterdir()) == []
    write_artifact(tmp_path, MANIFEST, {"x": b"1"})
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["1"]


def test_a_version_never_changes_its_content(tmp_path: Path) -> None:
    ref = write_artifact(tmp_path, MANIFEST, {"x": b"1"})
    before = {path: path.read_bytes() for path in (tmp_path / "m" / "1").iterdir()}
    with pytest.raises(ArtifactExists, match=r"m@1 is in .* already"):
        write_artifact(tmp_path, MANIFEST, {"x": b"2"})
    assert {path: path.read_bytes() for path in (tmp_path / "m" / "1").iterdir()} == before
    assert write_artifact(tmp_path, MANIFEST, {"x": b"2"}, replace=True) != ref
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["1"]


def test_numbers_that_are_none_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_artifact(tmp_path, {**MANIFEST, "cache_ttl_s": float("inf")}, {})
    assert not (tmp_path / "m" / model_store.MANIFEST).exists()
