"""relevance-minilm against the reference, and its text on the way there."""

import numpy as np
import pytest

from pipeline.models.folder import ModelStore
from preprocess.service import Preprocess
from scoring.device import Cpu
from scoring.model import LoadedModel
from tests.support.minilm import REFERENCE
from training.relevance_minilm import import_minilm


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    folder = tmp_path_factory.mktemp("models")
    import_minilm(folder)
    return ModelStore(folder)


def rows() -> list[dict[str, str]]:
    return [{"query": row["query"], "passage": row["passage"]} for row in REFERENCE["rows"]]


def test_scores_are_the_references(store: ModelStore) -> None:
    """Also beside others of all lengths: padding and grouping change nothing."""
    artifact = store.load("relevance-minilm", "1")
    outputs = Preprocess(store).perform(artifact.ref, rows())
    scores = LoadedModel(artifact, Cpu()).run([output.body for output in outputs])
    np.testing.assert_allclose(scores, [row["cosine"] for row in REFERENCE["rows"]], atol=1e-4)
