"""What the commands that write an artifact share: their options, and how the result is reported."""

import argparse
from pathlib import Path

from pipeline.contracts.lanes import MODEL_VERSION


def artifact_parser(program: str, description: str) -> argparse.ArgumentParser:
    """Returns a parser with ``--out`` (the model store) and ``--version``."""
    parser = argparse.ArgumentParser(prog=program, description=description, usage=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, required=True, help="the model store to write into")
    parser.add_argument("--version", type=_version, default="1")
    return parser


def _version(text: str) -> str:
    if not MODEL_VERSION.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be a version: it must match {MODEL_VERSION.pattern}")
    return text
