"""What only a real GPU can show. Collected where there is one that torch can use; see ``tests/conftest.py``."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.models.folder import Artifact, ModelStore
from pipeline.worker.devices.nvml import Gpu as Driver
from pipeline.worker.devices.nvml import find
from preprocess.service import Preprocess
from scoring.canary import Canary
from scoring.device import Gpu, open_device
from scoring.model import LoadedModel
from training.relevance_minilm import import_minilm

pytestmark = pytest.mark.gpu
REFERENCE = json.loads((Path(__file__).parent.parent / "unit" / "minilm_reference.json").read_text())["rows"]
COSINES = [row["cosine"] for row in REFERENCE]


@pytest.fixture(scope="module")
def device() -> Gpu:
    found = open_device("cuda:0")
    assert isinstance(found, Gpu)
    return found


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("models")
    import_minilm(folder)
    return ModelStore(folder).load("relevance-minilm", "1")


@pytest.fixture(scope="module")
def bodies(artifact: Artifact) -> list[bytes]:
    rows = [{"query": row["query"], "passage": row["passage"]} for row in REFERENCE]
    store = ModelStore(artifact.folder.parent.parent)
    return [output.body for output in Preprocess(store).perform(artifact.ref, rows)]


def test_the_driver_says_what_there_is() -> None:
    first = find()[0]
    reading = Driver(first.index).read()
    assert first.uuid.startswith("GPU-")
    assert reading.memory_total
    assert reading.memory_used is not None
    assert reading.temperature


def test_bfloat16_is_within_a_hundredth_of_the_reference(device: Gpu, artifact: Artifact, bodies: list[bytes]) -> None:
    assert artifact.manifest["dtype"] == {"cuda": "bfloat16"}
    np.testing.assert_allclose(LoadedModel(artifact, device).run(bodies), COSINES, atol=1e-2)


def test_float32_is_within_a_ten_thousandth_of_the_reference(
    device: Gpu, artifact: Artifact, bodies: list[bytes]
) -> None:
    exact = replace(artifact, manifest={**artifact.manifest, "dtype": {}})
    np.testing.assert_allclose(LoadedModel(exact, device).run(bodies), COSINES, atol=1e-4)


def test_a_rows_number_is_the_same_beside_any_others(device: Gpu, artifact: Artifact, bodies: list[bytes]) -> None:
    """Rounded to what is promised here (``scoring.model.DECIMALS``)."""
    model = LoadedModel(artifact, device)
    alone = [model.run([body])[0] for body in bodies]
    assert alone == [round(number, 3) for number in alone if isinstance(number, float)]
    assert model.run(bodies) == alone
    assert model.run(bodies[::-1]) == alone[::-1]


def test_with_little_memory_left_the_same_scores_come_in_smaller_batches(
    device: Gpu, artifact: Artifact, bodies: list[bytes]
) -> None:
    model = LoadedModel(artifact, device)
    before = model.run(bodies * 16)
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device.place)
    taken = torch.empty(free - (48 << 20), dtype=torch.uint8, device=device.place)
    try:
        np.testing.assert_allclose(model.run(bodies * 16), before, atol=1e-2)
    finally:
        del taken
        torch.cuda.empty_cache()


def test_the_canary_is_right(device: Gpu) -> None:
    class Told:
        right: bool | None = None

        def canary_began(self) -> None:
            pass

        def canary_ended(self, *, right: bool) -> None:
            self.right = right

        def report_models(self, models: list[str]) -> None:
            pass

    told = Told()
    canary = Canary(device, told)
    canary.begins(object())
    assert told.right
    canary.refuse_if_wrong()


SPOILT = """
import torch
from pipeline.contracts.failures import CudaFault
from scoring.failures import kind_of
numbers = torch.zeros(4, device="cuda")
try:
    print(numbers[torch.tensor([1 << 20], device="cuda")].cpu())
except Exception as error:
    assert kind_of(error) is CudaFault, (type(error), error)
    print("named")
"""


def test_an_assertion_on_the_device_is_a_fault_that_ends_the_process() -> None:
    run = subprocess.run([sys.executable, "-c", SPOILT], capture_output=True, text=True, timeout=120, check=False)
    assert run.stdout.strip() == "named", run.stdout + run.stderr
