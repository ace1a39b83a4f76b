"""``relevance``: how relevant a passage is to a query, as the cosine of their embeddings."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from torch import Tensor

from scoring.bert import Encoder, config_of, weights_of
from scoring.pieces import Architecture, Pieces

Ids = npt.NDArray[np.uint16]
SHORTEST = 8
STEP = 4
"""Tokens between two padded lengths; longer texts have longer steps, of less than an eighth."""
ROWS = 16
"""Texts in the largest block: more together are no faster on a CPU."""


def padded(tokens: int) -> int:
    """Returns the length that a text of so many tokens is padded to, whatever its neighbours are."""
    step = max(STEP, (1 << (tokens - 1).bit_length()) // 16)
    return max(SHORTEST, -(-tokens // step) * step)


class Relevance(Architecture):
    """Each row is two texts, encoded separately: a text of 10 tokens is not padded to one of 200.

    A row comes as uint16 (little-endian): how many tokens the query has, then the query's ids and the passage's.

    A block has all its texts at one of few lengths (``padded``). The kernels for that length give a text the same bits
    among 1, 2, 4, 8 and 16 of them: a product over all tokens of a block has a multiple of 4 rows, 8 at least. (For
    fewer rows, and for a remainder, there are other kernels.)
    """

    rows, least = ROWS, 1

    def __init__(self, longest: int | None = None, **config: Any) -> None:
        """``longest``: how many tokens of a text are read, always with the last one: it says that the text ends."""
        super().__init__()
        self.encoder = Encoder(**config)
        self._longest = longest or self.encoder.places.num_embeddings

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """(texts, tokens) ids, padded, and their (texts,) lengths -> (texts, width) embeddings."""
        embeddings: Tensor = self.encoder(ids, lengths)
        return embeddings

    def pieces(self, bodies: Sequence[bytes]) -> Pieces[Ids]:
        """Returns the texts of all rows: query, passage, query, passage, ..."""
        texts: list[Ids] = []
        for body in bodies:
            ids = np.frombuffer(body, dtype="<u2")
            texts += self._cut(ids[1 : 1 + ids[0]]), self._cut(ids[1 + ids[0] :])
        most = self.encoder.places.num_embeddings
        return Pieces(texts, [min(padded(len(text)), most) for text in texts])

    def _cut(self, ids: Ids) -> Ids:
        return ids if len(ids) <= self._longest else np.append(ids[: self._longest - 1], ids[-1])

    def stage(self, pieces: Sequence[Ids], size: int, rows: int) -> tuple[Tensor, ...]:
        """Returns (rows, size) ids (int32) and (rows,) lengths. A text that fills up the block has one token."""
        lengths = torch.tensor([len(text) for text in pieces] + [1] * (rows - len(pieces)), dtype=torch.int32)
        ids = torch.zeros(rows, size, dtype=torch.int32)
        for row, text in zip(ids.numpy(), pieces, strict=False):
            row[: len(text)] = text
        return ids, lengths

    def raw(self, outputs: Tensor) -> Tensor:
        """(2 x rows, width) -> (rows,): the cosine, and 0 where it is negative."""
        queries, passages = outputs[0::2], outputs[1::2]
        return (queries * passages).sum(1).double().clamp(0, 1)


def converted(weights: bytes, config: bytes) -> tuple[dict[str, Any], bytes]:
    """Returns a manifest's architecture and ``model.safetensors``, given a BertModel's own two files.

    ValueError if they are of another architecture.
    """
    arguments = config_of(json.loads(config))
    tensors = weights_of(safetensors.torch.load(weights), int(arguments["layers"]))
    packed = safetensors.torch.save({f"encoder.{name}": tensor.contiguous() for name, tensor in tensors.items()})
    return {"id": "relevance", "config": arguments}, packed
