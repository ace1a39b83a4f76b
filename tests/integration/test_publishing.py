"""``scoreline publish`` proves what it releases, names what it refuses, and lets nothing keep the rest back."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from pipeline.ledger import keys
from pipeline.models.folder import ModelStore
from pipeline.settings import REPOSITORY, SHIPPED_MODELS, read_settings
from pipeline.stack.local import LocalStack
from pipeline.stack.models import CHAOS_MODELS
from tasks.proof import prove
from tests.conftest import free_port
from tests.unit.test_model_store import strays
from training.credit_default import BANDS
from training.relevance_minilm import import_minilm

SCORELINE = str(Path(sys.executable).parent / "scoreline")
Cli = Callable[..., subprocess.CompletedProcess[str]]
Change = Callable[[dict[str, Any], Path], object]
GOOD = ["credit-default-logistic@1", "credit-default@1"]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    shutil.copytree(SHIPPED_MODELS, tmp_path / "models")
    return tmp_path / "models"


@pytest.fixture
def cli(valkey: str, models: Path) -> Cli:
    """The command line over an empty ledger and a model store of the test's own."""
    redis.Redis.from_url(valkey).flushall()

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [SCORELINE, *arguments],
            capture_output=True,
            check=False,
            text=True,
            timeout=150,
            env={
                "PATH": "/usr/bin:/bin",
                "COLUMNS": "300",
                "SCORELINE_STORE_URL": valkey,
                "SCORELINE_MODEL_STORE": str(models),
                **environment,
            },
        )
        assert "Traceback" not in done.stderr
        return done

    return run


def version(
    models: Path, number: str, change: Callable[[dict[str, Any], Path], object], of: str = "credit-default"
) -> None:
    """A version like the first, after a change to its manifest and its files, whose digests are then put right."""
    folder = models / of / number
    shutil.copytree(models / of / "1", folder)
    manifest = json.loads((folder / "manifest.json").read_text()) | {"version": number}
    change(manifest, folder)
    for name, listed in manifest["files"].items():
        content = (folder / name).read_bytes()
        listed |= {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def nan_slope(manifest: dict[str, Any], _: Path) -> None:
    manifest["calibration"]["slope"] = float("nan")


def another_width(manifest: dict[str, Any], _: Path) -> None:
    manifest["architecture"]["config"]["inputs"] = 27


def no_weights(_: dict[str, Any], folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not the weights")


def encoder(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[dict[str, Any], Path], None]:
    def changed(_: dict[str, Any], folder: Path) -> None:
        document = json.loads((folder / "preprocess.json").read_text())
        change(document["columns"])
        (folder / "preprocess.json").write_text(json.dumps(document))

    return changed


def states(**result: Any) -> Callable[[dict[str, Any], Path], None]:
    stated = {"score": 0.09068385, "decision": "approve", "raw": 0.09973488} | result
    return lambda manifest, _: manifest.update(example_result=stated)


REFUSED = {
    "nan-slope": (nan_slope, "NaN is not JSON"),
    "no-bands": (lambda manifest, _: manifest.pop("bands"), "lacks bands"),
    "few-bands": (lambda manifest, _: manifest["bands"].pop(), "have no decision"),
    "no-calibration": (lambda manifest, _: manifest.pop("calibration"), "lacks calibration"),
    "no-example": (lambda manifest, _: manifest.pop("example"), "lacks example"),
    "unknown": (lambda manifest, _: manifest["architecture"].update(id="forest"), "unknown architecture 'forest'"),
    "pool": (lambda manifest, _: manifest.update(pool="a b"), "pool: "),
    "width": (another_width, "weights do not fit the architecture"),
    "weights": (no_weights, "weights do not fit the architecture"),
    "fewer-columns": (encoder(lambda columns: columns.pop()), "warm-up failed"),
    "no-scale": (encoder(lambda columns: columns[0].update(scale=0)), "a column's scale is not above 0"),
    "no-mean": (encoder(lambda columns: columns[0].pop("mean")), "preprocess.json: lacks 'mean'"),
    "strange": (encoder(lambda columns: columns[0].update(name="Seniorty")), "reads Seniorty"),
    "infinite": (encoder(lambda columns: columns[0].update(mean=float("inf"))), "Infinity is not JSON"),
    "result": (states(decision="decline"), "gives the decision 'approve', and the manifest states 'decline'"),
    "score": (states(score=0.0908), "the manifest states 0.0908"),
    "not-here": (
        lambda manifest, _: manifest["fallback"].update(digest="0" * 64),
        "the fallback cannot stand in",
    ),
}  # fmt: skip


def test_publish_refuses_what_does_not_work_with_the_reason_and_releases_the_rest(cli: Cli, models: Path) -> None:
    for number, (change, _) in REFUSED.items():
        version(models, number, change)
    version(models, "2", states())
    done = cli("publish", "--json")
    document = json.loads(done.stdout)
    assert sorted(document["added"]) == sorted([*GOOD, "credit-default@2"])
    reasons = {each["place"].removeprefix("credit-default/"): each["reason"] for each in document["refused"]}
    assert reasons.keys() == REFUSED.keys()
    for number, (_, said) in REFUSED.items():
        assert said in reasons[number], number
        assert f"not released: credit-default/{number}: " in done.stderr
    assert done.returncode == 1


def test_publish_names_strays_and_doctor_does_too(cli: Cli, models: Path) -> None:
    expected = strays(models)
    done = cli("publish")
    assert done.returncode == 1
    assert "released: credit-default@1, credit-default-logistic@1" in done.stdout
    again = cli("publish", "--lenient", "--json")
    assert (again.returncode, json.loads(again.stdout)["added"]) == (0, [])
    examined = cli("doctor", "--json")
    assert examined.returncode == 1
    said = [check["detail"] for check in json.loads(examined.stdout) if not check["ok"]]
    for place, reason in expected.items():
        assert f"not released: {place}: " in done.stderr
        assert any(each.startswith(f"{place}: ") and reason in each for each in said)
    (good,) = (c["detail"] for c in json.loads(examined.stdout) if c["check"] == "model store" and c["ok"])
    assert good.startswith("credit-default@1, credit-default-logistic@1: ")


@pytest.mark.parametrize("number", ["nan-slope", "no-bands", "few-bands", "no-calibration", "no-example", "unknown"])
def test_doctor_shows_a_version_that_publish_refuses(cli: Cli, models: Path, number: str) -> None:
    change, said = REFUSED[number]
    version(models, number, change)
    examined = cli("doctor", "--json")
    assert examined.returncode == 1
    wrong = [
        check["detail"] for check in json.loads(examined.stdout) if check["check"] == "model store" and not check["ok"]
    ]
    assert len(wrong) == 1
    assert wrong[0].startswith(f"credit-default/{number}: ")
    assert said in wrong[0]


def test_an_example_that_kills_its_process_or_never_ends_keeps_nothing_back(cli: Cli, models: Path) -> None:
    shutil.copytree(CHAOS_MODELS / "chaos-probe", models / "chaos-probe")
    for deed in ("crash", "hang", "raise"):
        change = lambda manifest, _, deed=deed: manifest["example"]["features"].update(do=deed)  # noqa: E731
        version(models, deed, change, of="chaos-probe")
    done = cli("publish", "--json", SCORELINE_CHAOS_MODEL="true", SCORELINE_START_LIMIT_S="20")
    document = json.loads(done.stdout)
    assert sorted(document["added"]) == ["chaos-probe@1", *GOOD]
    reasons = {each["place"]: each["reason"] for each in document["refused"]}
    assert "has ended by itself (exit code -9)" in reasons["chaos-probe/crash"]
    assert "has not come through after 20 s" in reasons["chaos-probe/hang"]
    assert "told to raise" in reasons["chaos-probe/raise"]


def test_a_version_with_another_content_is_refused(cli: Cli, models: Path) -> None:
    assert cli("publish").returncode == 0
    manifest = models / "credit-default" / "1" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"max_batch": 64', '"max_batch": 65'))
    done = cli("publish")
    assert done.returncode == 1
    assert "nothing new to release" in done.stdout
    assert "give the new artifact a new version" in done.stderr


def test_what_is_released_stays_as_it_is_whatever_its_manifest_lacks(cli: Cli, models: Path, valkey: str) -> None:
    """A release that an earlier version of this code has made is not refused afterwards."""
    assert cli("publish").returncode == 0
    manifest = models / "credit-default" / "1" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"of-old": True}))
    store = redis.Redis.from_url(valkey)
    known = json.loads(store.hget(keys.RELEASES, "credit-default"))  # type: ignore[arg-type]
    known["versions"][0]["digest"] = hashlib.sha256(manifest.read_bytes()).hexdigest()
    store.hset(keys.RELEASES, "credit-default", json.dumps(known))
    assert cli("publish").returncode == 0


def test_without_torch_publish_says_where_to_run_it(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('no torch on this machine')")
    done = cli("publish", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "cannot be proved here (no torch on this machine): publish where scoring runs" in done.stderr


def test_publish_without_a_store_or_models_says_so(cli: Cli, tmp_path: Path) -> None:
    done = cli("publish", SCORELINE_STORE_URL=f"redis://127.0.0.1:{free_port()}/0")
    assert (done.returncode, "refused the connection" in done.stderr) == (3, True)
    done = cli("publish", SCORELINE_MODEL_STORE=str(tmp_path / "nothing"))
    assert (done.returncode, "cannot be read: No such file" in done.stderr) == (1, True)


def test_everything_that_ships_is_proved() -> None:
    """``scoreline up`` releases these without a proof of its own."""
    environment = {**os.environ, "SCORELINE_CHAOS_MODEL": "true"}
    for root in (SHIPPED_MODELS, CHAOS_MODELS):
        proof = (
            "import sys; from pathlib import Path; from pipeline.models.folder import ModelStore; from tasks.proof "
            "import prove; root = Path(sys.argv[1]); [prove(root, each) for each in ModelStore(root).all()]"
        )
        subprocess.run([sys.executable, "-c", proof, str(root)], check=True, env=environment, cwd=REPOSITORY)


def test_the_importer_states_the_result_of_its_example(tmp_path: Path) -> None:
    import_minilm(tmp_path)
    for artifact in ModelStore(tmp_path).all():
        assert 0.3 < artifact.manifest["example_result"]["score"] <= 1
        ModelStore(tmp_path).check(artifact)
        prove(tmp_path, artifact)


def test_up_starts_beside_strays_and_names_them(tmp_path: Path, models: Path) -> None:
    expected = strays(models)
    version(models, "2", states())
    version(models, "no-bands", REFUSED["no-bands"][0])
    with LocalStack(read_settings({"SCORELINE_MODEL_STORE": str(models)}), data_dir=tmp_path / "data") as stack:
        assert {each.place for each in stack.refused} == {*expected, "credit-default/no-bands"}
        with httpx.Client(base_url=stack.api_url, timeout=40) as http:
            listed = {f"{each['name']}@{each['version']}" for each in http.get("/v1/models").json()["models"]}
            features = ModelStore(models).load("credit-default", "2").manifest["example"]["features"]
            body = {"model": "credit-default@2", "features": features}
            ended = http.post("/v1/scores", params={"wait": 30}, json=body).json()
    assert listed == {*GOOD, "credit-default@2"}
    assert ended["result"]["decision"] == BANDS[0]["decision"]
    assert ended["result"]["score"] == pytest.approx(0.09068385, abs=1e-5)
