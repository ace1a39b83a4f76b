"""Two texts on their way to the model: packed ids, and what is cut is said."""

import json

import numpy as np
import pytest

from preprocess.text import TextPair
from training.relevance_minilm import source

FIRST, LAST = 101, 102
"""The ids that BERT puts around a text."""


def ids_of(body: bytes) -> tuple[list[int], list[int]]:
    first, *ids = np.frombuffer(body, dtype="<u2").tolist()
    return ids[:first], ids[first:]


@pytest.fixture(scope="module")
def text_pair() -> TextPair:
    document = {"kind": "text-pair", "fields": ["query", "passage"], "max_tokens": 8}
    return TextPair(document, (source() / "tokenizer.json").read_bytes())


def test_a_row_travels_as_two_bytes_a_token(text_pair: TextPair) -> None:
    vocabulary = json.loads((source() / "tokenizer.json").read_text())["model"]["vocab"]
    (output,) = text_pair.outputs([{"query": "Refund?", "passage": "money BACK"}])
    expected = [vocabulary[word] for word in ("[CLS]", "ref", "##und", "?", "[SEP]")]
    assert ids_of(output.body) == (expected, [FIRST, vocabulary["money"], vocabulary["back"], LAST])
    assert output.anomalies == []


def test_a_long_text_is_cut_whole_at_its_end_and_marked(text_pair: TextPair) -> None:
    whole, cut = text_pair.outputs([{"query": "a", "passage": "a " * 6}, {"query": "a", "passage": "a " * 7}])
    assert whole.anomalies == []
    assert [(found["feature"], found["kind"], found["expected"]) for found in cut.anomalies] == [
        ("passage", "out_of_range", {"max": "8 tokens"})
    ]
    assert ids_of(cut.body)[1] == ids_of(whole.body)[1]


def test_rows_do_not_change_each_other(text_pair: TextPair) -> None:
    rows = [{"query": "one", "passage": "two three"}, {"query": "four five six", "passage": ""}]
    together = [output.body for output in text_pair.outputs(rows)]
    assert together == [output.body for row in rows for output in text_pair.outputs([row])]


def test_a_vocabulary_that_does_not_fit_two_bytes_is_refused() -> None:
    document = json.loads((source() / "tokenizer.json").read_text())
    document["model"]["vocab"] |= {f"word{number}": 30522 + number for number in range(40_000)}
    with pytest.raises(ValueError, match="16 bits"):
        TextPair({"fields": ["query", "passage"], "max_tokens": 8}, json.dumps(document).encode())
