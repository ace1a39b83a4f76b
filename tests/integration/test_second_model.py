"""The second model through the whole stack: real text in, relevance out."""

from collections.abc import Iterator

import pytest

from pipeline.client import ScoringClient
from pipeline.settings import read_settings
from pipeline.stack.local import LocalStack
from tests.support.minilm import ROWS
from training.relevance_minilm import import_minilm


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScoringClient]:
    models = tmp_path_factory.mktemp("models")
    import_minilm(models)
    settings = read_settings({"SCORELINE_MODEL_STORE": str(models)})
    with LocalStack(settings) as stack, ScoringClient(settings=stack.settings) as client:
        yield client


def test_scores_through_the_stack_are_the_references(client: ScoringClient) -> None:
    requests = [
        {"model": "relevance-minilm", "features": {"query": row["query"], "passage": row["passage"]}} for row in ROWS
    ]
    for row, answer in zip(ROWS, client.score_many(requests), strict=True):
        assert answer["state"] == "succeeded", answer["error"]
        assert answer["result"]["score"] == pytest.approx(row["cosine"], abs=1e-4)


def test_what_is_no_text_is_invalid(client: ScoringClient) -> None:
    answer = client.score("relevance-minilm", {"query": "refund", "passage": ["a", "list"]})
    assert (answer["state"], answer["error"]["category"]) == ("invalid", "input")
    assert "passage" in answer["error"]["message"]
