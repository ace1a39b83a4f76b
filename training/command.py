"""What the commands that write an artifact share: their options, and a model store that can be written."""

import argparse
import tempfile
from pathlib import Path

from pipeline.cli.console import BAD_OUTCOME, fail
from pipeline.contracts.lanes import MODEL_VERSION


def artifact_parser(program: str, description: str) -> argparse.ArgumentParser:
    """Returns a parser with ``--out`` (the model store) and ``--version``."""
    parser = argparse.ArgumentParser(prog=program, description=description, usage=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, required=True, help="the model store to write into")
    parser.add_argument("--version", type=_version, default="1")
    return parser


def artifact_options(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Returns the options. A model store that cannot be written ends the command before the work, not after it."""
    options = parser.parse_args()
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=options.out):
            pass
    except OSError as error:
        why = f"the model store {options.out} cannot be written ({error.strerror})"
        fail(f"{why}: set SCORELINE_MODEL_STORE, or --out, to a folder of your own", BAD_OUTCOME)
    return options


def _version(text: str) -> str:
    if not MODEL_VERSION.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be a version: it must match {MODEL_VERSION.pattern}")
    return text
