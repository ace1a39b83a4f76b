"""Encoding of text: the two texts of a row as packed token ids."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tokenizers

from pipeline.contracts.work import Output

LARGEST_ID = 2**16 - 1


class TextPair:
    """Tokenises the two fields that ``preprocess.json`` names, each on its own.

    A row becomes uint16 (little-endian): how many tokens the first text has, then its ids, then the second one's.
    A text longer than ``max_tokens`` is cut there and marked as an anomaly: the model does not see the rest.
    """

    def __init__(self, document: Mapping[str, Any], tokenizer: bytes) -> None:
        self._fields: list[str] = document["fields"]
        self._most: int = document["max_tokens"]
        self._tokenizer = tokenizers.Tokenizer.from_buffer(tokenizer)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        if self._tokenizer.get_vocab_size() > LARGEST_ID + 1:
            raise ValueError(f"the vocabulary is larger than {LARGEST_ID + 1}: ids travel as 16 bits")

    def outputs(self, rows: Sequence[Mapping[str, Any]]) -> list[Output]:
        """Returns the packed ids of each row, and which of its texts were cut."""
        texts = [row[field] for row in rows for field in self._fields]
        encoded = iter(self._tokenizer.encode_batch(texts))
        return [self._packed([next(encoded) for _ in self._fields]) for _ in rows]

    def _packed(self, texts: Sequence[tokenizers.Encoding]) -> Output:
        anomalies = []
        kept = []
        for field, text in zip(self._fields, texts, strict=True):
            ids = text.ids
            if len(ids) > self._most:
                found, most = f"{len(ids)} tokens", f"{self._most} tokens"
                anomalies.append({"feature": field, "value": found, "kind": "out_of_range", "expected": {"max": most}})
                ids = [*ids[: self._most - 1], ids[-1]]  # the last token says that the text ends
            kept.append(ids)
        return Output(np.array([len(kept[0]), *kept[0], *kept[1]], dtype="<u2").tobytes(), anomalies)
