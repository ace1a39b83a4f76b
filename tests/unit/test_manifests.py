"""Manifests: whatever is wrong with one is said, and the ones that ship are right."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.contracts.failures import ArtifactCorrupt
from pipeline.models import manifests
from pipeline.models.folder import ModelStore
from pipeline.settings import REPOSITORY, SHIPPED_MODELS
from pipeline.stack.models import CHAOS_MODELS
from pipeline.stack.shipped import SHIPPED
from postprocess.service import Decision
from scoring.architectures import ARCHITECTURES

SHIPPED_STORES = (SHIPPED_MODELS, CHAOS_MODELS)
GOOD = json.loads((SHIPPED_MODELS / "credit-default" / "1" / "manifest.json").read_text())
Change = Callable[[dict[str, Any]], object]


def changed(change: Change) -> dict[str, Any]:
    manifest = copy.deepcopy(GOOD)
    change(manifest)
    return manifest


def put(value: Any, *place: Any) -> Change:
    """Put a value at a place of the manifest."""

    def change(manifest: dict[str, Any]) -> None:
        at: Any = manifest
        for part in place[:-1]:
            at = at[part]
        at[place[-1]] = value

    return change


def without(*place: Any) -> Change:
    def change(manifest: dict[str, Any]) -> None:
        at: Any = manifest
        for part in place[:-1]:
            at = at[part]
        del at[place[-1]]

    return change


REMOTE = {"type": "object", "properties": {"x": {"$ref": "http://127.0.0.1:9/x"}}}
LOCAL_FILE = {"type": "object", "properties": {"x": {"$ref": "file:///etc/hostname"}}}
FILE = {"sha256": "0" * 64, "size": 1}
RESULT = {"score": 0.1, "decision": "approve", "raw": 0.1}

BROKEN = [
    *(
        pytest.param(without(name), f"lacks {name}", id=f"no {name}")
        for name in (
            "format", "name", "version", "architecture", "input_schema", "bands", "calibration", "example", "files",
        )
    ),
    pytest.param(put(2, "format"), "format: ", id="another format"),
    pytest.param(put("A B", "name"), "name: ", id="a name that is none"),
    pytest.param(put("credit-default\n", "name"), "name: ", id="a name with a line end"),
    pytest.param(put("../1", "version"), "version: ", id="a version that leads elsewhere"),
    pytest.param(put("linear", "architecture", "id"), "unknown architecture 'linear'", id="unknown architecture"),
    pytest.param(put([30000, 2_000_000], "architecture", "config", "hidden"), "hidden/1: ", id="a layer too large"),
    pytest.param(put("many", "architecture", "config", "inputs"), "inputs: ", id="inputs that are no number"),
    pytest.param(without("architecture", "config", "hidden"), "lacks architecture/config/hidden", id="no layers"),
    pytest.param(put("a b", "pool"), "pool: ", id="a pool that is no lane"),
    pytest.param(put(["x"], "pool"), "pool: ", id="a pool that is a list"),
    pytest.param(put("tpu", "device"), "device: ", id="unknown device"),
    pytest.param(put({"cuda": "int4"}, "dtype"), "dtype/cuda: ", id="unknown dtype"),
    pytest.param(put(0, "max_batch"), "max_batch: ", id="batches of none"),
    pytest.param(put(5_000_000, "max_batch"), "max_batch: ", id="batches too large"),
    pytest.param(put("64", "max_batch"), "max_batch: ", id="a batch that is text"),
    pytest.param(put(True, "max_batch"), "max_batch: ", id="a batch that is true"),
    pytest.param(put(-1, "cache_ttl_s"), "cache_ttl_s: ", id="cached for less than nothing"),
    pytest.param(put("300", "cache_ttl_s"), "cache_ttl_s: ", id="cached for a text"),
    pytest.param(put(1e12, "cache_ttl_s"), "cache_ttl_s: ", id="cached for ever"),
    pytest.param(put(0, "slow_batch_s"), "slow_batch_s: ", id="every batch is slow"),
    pytest.param(put([], "bands"), "bands: ", id="no bands"),
    pytest.param(lambda m: m["bands"].pop(), "scores from there to 1 have no decision", id="incomplete bands"),
    pytest.param(lambda m: m["bands"].reverse(), "do not rise", id="bands that fall"),
    pytest.param(put(0.2, "bands", 1, "below"), "do not rise", id="two bands of one edge"),
    pytest.param(put("x", "bands", 0, "below"), "bands/0/below: ", id="an edge that is no number"),
    pytest.param(put(1.5, "bands", 2, "below"), "bands/2/below: ", id="an edge above 1"),
    pytest.param(put("", "bands", 0, "decision"), "bands/0/decision: ", id="a decision without a name"),
    pytest.param(without("bands", 0, "decision"), "lacks bands/0/decision", id="no decision"),
    pytest.param(without("calibration", "slope"), "calibration: expected", id="no slope"),
    pytest.param(put("1", "calibration", "slope"), "calibration: expected", id="a slope that is text"),
    pytest.param(put(float("nan"), "calibration", "slope"), "calibration: expected", id="a slope that is none"),
    pytest.param(put(1e308, "calibration", "slope"), "calibration: expected", id="a slope beyond all scores"),
    pytest.param(put("isotonic", "calibration", "method"), "calibration: expected", id="unknown calibration"),
    pytest.param(without("example", "features"), "lacks example/features", id="an example of nothing"),
    pytest.param(put(-1, "example", "features", "Income"), "example: Income", id="an example that is not valid"),
    pytest.param(without("example", "features", "Income"), "example: ", id="an example that lacks a feature"),
    pytest.param(put({**RESULT, "decision": "maybe"}, "example_result"), "none of approve", id="no such decision"),
    pytest.param(put({**RESULT, "score": 2}, "example_result"), "example_result/score: ", id="no such score"),
    pytest.param(put({"type": "array"}, "input_schema"), "input_schema", id="features that are a list"),
    pytest.param(put("number!", "input_schema", "properties", "Income", "type"), "input_schema: ", id="no such type"),
    pytest.param(put(REMOTE, "input_schema"), "input_schema: ", id="a schema of another host"),
    pytest.param(put(LOCAL_FILE, "input_schema"), "input_schema: ", id="a schema of a local file"),
    pytest.param(put({"$ref": "http://127.0.0.1:9/x"}, "output_schema"), "output_schema: ", id="a remote output"),
    pytest.param(put(["Income", "Age"], "input_schema", "required"), "requires Age", id="requires what is not there"),
    pytest.param(put(["Income"], "features"), "features: not those", id="other features"),
    pytest.param(without("files", "preprocess.json"), "lacks files/preprocess.json", id="no encoder"),
    pytest.param(without("files", "model.safetensors"), "lacks files/model.safetensors", id="no weights"),
    pytest.param(put(FILE, "files", "../x"), "files: ", id="a file elsewhere"),
    pytest.param(put(FILE, "files", "a/b"), "files: ", id="a file in a folder"),
    pytest.param(put(FILE, "files", "manifest.json"), "files: ", id="itself"),
    pytest.param(put({"size": 1}, "files", "x"), "lacks files/x/sha256", id="a file without a digest"),
    pytest.param(put({**FILE, "sha256": "0"}, "files", "x"), "files/x/sha256: ", id="a digest that is none"),
    pytest.param(put({**FILE, "size": -1}, "files", "x"), "files/x/size: ", id="less than nothing"),
    pytest.param(put("abc", "fallback", "digest"), "fallback/digest: ", id="a fallback that is not pinned"),
    pytest.param(put("credit-default", "fallback"), "fallback: ", id="a fallback that is a name"),
    pytest.param(put(5, "cache_ttl"), "cache_ttl: unknown field (did you mean cache_ttl_s?)", id="a misspelt field"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "said"), BROKEN)
def test_a_broken_manifest_is_refused_with_the_reason(change: Change, said: str) -> None:
    with pytest.raises(ArtifactCorrupt, match=re.escape(said)) as refused:
        manifests.check(changed(change))
    assert len(str(refused.value)) < 1200


def test_many_faults_are_counted() -> None:
    with pytest.raises(ArtifactCorrupt, match="and 4 more"):
        manifests.check({})


def test_local_references_are_followed() -> None:
    manifest = changed(put({"$ref": "#/$defs/Home"}, "input_schema", "properties", "Home"))
    manifest["input_schema"]["$defs"] = {"Home": {"enum": ["rent", None]}}
    manifests.check(manifest)


def test_what_ships_is_right_and_known() -> None:
    digests = set()
    for root in SHIPPED_STORES:
        artifacts, refused = ModelStore(root).scan()
        assert refused == []
        for artifact in artifacts:
            ModelStore(root).check(artifact)
            digests.add(artifact.digest)
    assert digests == SHIPPED


def test_the_schema_knows_the_architectures_that_scoring_knows() -> None:
    known = manifests.SCHEMA["properties"]["architecture"]["properties"]["id"]["enum"]
    assert {*ARCHITECTURES, "chaos-probe"} == set(known)


def test_every_field_is_documented() -> None:
    text = (REPOSITORY / "docs" / "manifest.md").read_text()
    documented = set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE))
    assert documented == set(manifests.SCHEMA["properties"])
    assert all("description" in field for field in manifests.SCHEMA["properties"].values())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m["bands"].pop(), "have no decision"),
        (put(float("nan"), "calibration", "slope"), "calibration"),
        (without("bands"), "lacks bands"),
        (without("calibration"), "lacks calibration"),
    ],
)
def test_postprocess_applies_no_broken_decision(change: Change, said: str) -> None:
    """Also not that of a version which was released before manifests were checked."""
    with pytest.raises(ArtifactCorrupt, match=said):
        Decision(changed(change))


def test_a_steep_calibration_has_no_overflow() -> None:
    steep = Decision({"calibration": {"method": "platt", "slope": 1000, "intercept": 0}, "bands": GOOD["bands"]})
    assert steep.calibrated(0.0) == pytest.approx(0)
    assert steep.calibrated(1.0) == 1


def write(root: Path, content: str | bytes) -> ModelStore:
    folder = root / "credit-default" / "1"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_bytes(content.encode() if isinstance(content, str) else content)
    return ModelStore(root)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (json.dumps(GOOD).replace("1.0544526490398642", "NaN"), "NaN is not JSON"),
        (json.dumps(GOOD).replace("1.0544526490398642", "1e999"), "too large"),
        (json.dumps(GOOD).replace('"max_batch"', '"max_batch": 1, "max_batch"'), "'max_batch' comes twice"),
        (json.dumps(GOOD).encode("utf-16"), "not UTF-8"),
        ("[" * 100_000, "nested too deeply"),
        ("", "not JSON"),
        (b"\0" * 100, "not JSON"),
        ("[]", "not a manifest"),
        (" " * (1 << 20) + json.dumps(GOOD), "larger than a manifest may be"),
    ],
)
def test_what_is_no_manifest_is_refused_with_the_reason(tmp_path: Path, content: str | bytes, said: str) -> None:
    _, (refused,) = write(tmp_path, content).scan()
    assert refused.place == "credit-default/1"
    assert said in refused.reason
