"""A BERT encoder (Devlin et al. 2019) in plain torch, as MiniLM (Wang et al. 2020) has it."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """One layer: self-attention, then a feed-forward net, each with a residual connection and a norm after it."""

    def __init__(self, width: int, heads: int, inner: int, epsilon: float) -> None:
        super().__init__()
        self.heads = heads
        self.attend = nn.Linear(width, 3 * width)  # queries, keys and values in one product
        self.attended = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, epsilon)
        self.widen = nn.Linear(width, inner)
        self.narrow = nn.Linear(inner, width)
        self.norm = nn.LayerNorm(width, epsilon)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """(texts, tokens, width) -> the same. ``mask``: (texts, 1, 1, tokens), True where there is a token."""
        texts, tokens, width = hidden.shape
        parts = self.attend(hidden).view(texts, tokens, 3, self.heads, width // self.heads)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        mixed = mixed.transpose(1, 2).reshape(texts, tokens, width)
        hidden = self.attention_norm(hidden + self.attended(mixed))
        return self.norm(hidden + self.narrow(functional.gelu(self.widen(hidden))))


class Encoder(nn.Module):
    """Turns token ids into one embedding of unit length for each text: the mean over its tokens."""

    def __init__(
        self, *, vocabulary: int, width: int, layers: int, heads: int, inner: int, positions: int, epsilon: float
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(positions, width)
        self.norm = nn.LayerNorm(width, epsilon)
        self.blocks = nn.ModuleList(Block(width, heads, inner, epsilon) for _ in range(layers))

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """(texts, tokens) ids, padded, and their (texts,) lengths -> (texts, width)."""
        places = torch.arange(ids.shape[1], device=ids.device)
        present = places < lengths[:, None]
        hidden = self.norm(self.words(ids) + self.places(places))
        mask = present[:, None, None, :]
        for block in self.blocks:
            hidden = block(hidden, mask)
        weights = present[:, :, None].to(hidden.dtype)
        mean = (hidden * weights).sum(1) / weights.sum(1)
        return functional.normalize(mean.float(), dim=1)


def config_of(document: Mapping[str, int | float | str]) -> dict[str, int | float | str]:
    """Returns an Encoder's arguments, given the ``config.json`` of a Hugging Face BertModel; else ValueError."""
    expected = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
    wrong = [f"{name} is {document.get(name)!r}" for name, value in expected.items() if document.get(name) != value]
    if wrong:
        raise ValueError(f"this is not the BERT encoder that is known here: {', '.join(wrong)}")
    return {
        "vocabulary": document["vocab_size"],
        "width": document["hidden_size"],
        "layers": document["num_hidden_layers"],
        "heads": document["num_attention_heads"],
        "inner": document["intermediate_size"],
        "positions": document["max_position_embeddings"],
        "epsilon": document["layer_norm_eps"],
    }


def weights_of(tensors: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """Returns an Encoder's weights, given those of a BertModel by its names; KeyError if one is missing.

    All texts are of type 0 (no pairs in one sequence): that type's embedding is added to those of the places.
    """

    def linear(name: str, source: str) -> dict[str, Tensor]:
        return {f"{name}.{part}": tensors[f"{source}.{part}"] for part in ("weight", "bias")}

    weights = {
        "words.weight": tensors["embeddings.word_embeddings.weight"],
        "places.weight": tensors["embeddings.position_embeddings.weight"]
        + tensors["embeddings.token_type_embeddings.weight"][0],
        **linear("norm", "embeddings.LayerNorm"),
    }
    for number in range(layers):
        own, theirs = f"blocks.{number}", f"encoder.layer.{number}"
        for part in ("weight", "bias"):
            three = [tensors[f"{theirs}.attention.self.{role}.{part}"] for role in ("query", "key", "value")]
            weights[f"{own}.attend.{part}"] = torch.cat(three)
        weights |= linear(f"{own}.attended", f"{theirs}.attention.output.dense")
        weights |= linear(f"{own}.attention_norm", f"{theirs}.attention.output.LayerNorm")
        weights |= linear(f"{own}.widen", f"{theirs}.intermediate.dense")
        weights |= linear(f"{own}.narrow", f"{theirs}.output.dense")
        weights |= linear(f"{own}.norm", f"{theirs}.output.LayerNorm")
    return weights
