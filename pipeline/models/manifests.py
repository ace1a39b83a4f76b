"""Manifests: what they must say, field by field (``manifest.schema.json``) and beyond what a schema can express.

Whatever is wrong here would otherwise show when a request meets it: as an answer that means nothing, or as none.
"""

import difflib
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema_rs

from pipeline.contracts.failures import ArtifactCorrupt

SCHEMA: dict[str, Any] = json.loads((Path(__file__).parent / "manifest.schema.json").read_text())
SHOWN = 5
_WHOLE = jsonschema_rs.validator_for(SCHEMA, offline=True)
_DECISION = jsonschema_rs.validator_for(
    {
        "$schema": SCHEMA["$schema"],
        "type": "object",
        "required": ["calibration", "bands"],
        "properties": {part: SCHEMA["properties"][part] for part in ("calibration", "bands")},
    },
    offline=True,
)


def check(manifest: Mapping[str, Any]) -> None:
    """Check a manifest as far as it can be checked without its files; ArtifactCorrupt says what is wrong."""
    wrong = _messages(_WHOLE, manifest)
    _raise(wrong or [*_bands(manifest), *_schemas(manifest)])


def check_decision(manifest: Mapping[str, Any]) -> None:
    """Check calibration and bands alone, for whoever applies them; ArtifactCorrupt."""
    _raise(_messages(_DECISION, manifest) or list(_bands(manifest)))


def _raise(wrong: list[str]) -> None:
    if wrong:
        more = [f"and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else []
        raise ArtifactCorrupt("the manifest: " + "; ".join([*wrong[:SHOWN], *more]))


def _messages(validator: jsonschema_rs.Validator, document: Any) -> list[str]:
    return [_message(error) for error in validator.iter_errors(document)]


def _message(error: jsonschema_rs.ValidationError) -> str:
    """A fault with its place. Few words: a schema's own may quote half of the manifest."""
    place = "/".join(map(str, error.instance_path))
    kind = error.kind
    if isinstance(kind, jsonschema_rs.ValidationErrorKind.AdditionalProperties):
        known = SCHEMA["properties"] if not place else {}
        return "; ".join(f"{_below(place, name)}: unknown field{_meant(name, known)}" for name in kind.unexpected)
    if isinstance(kind, jsonschema_rs.ValidationErrorKind.Required):
        return f"lacks {_below(place, kind.property)}"
    if place == "architecture/id":
        known_ids = SCHEMA["properties"]["architecture"]["properties"]["id"]["enum"]
        return f"unknown architecture {error.instance!r}: known are {', '.join(known_ids)}"
    if place == "calibration":
        return "calibration: expected method 'none', or 'platt' with slope and intercept from -1000 to 1000"
    text = error.message
    return f"{place or 'manifest'}: {text if len(text) <= 160 else text[:157] + '...'}"


def _below(place: str, name: str) -> str:
    return f"{place}/{name}" if place else name


def _meant(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _bands(manifest: Mapping[str, Any]) -> Iterator[str]:
    edges = [band["below"] for band in manifest["bands"]]
    if any(later <= earlier for earlier, later in itertools.pairwise(edges)):
        yield f"bands: {edges} do not rise"
    if edges[-1] != 1:
        yield f"bands: the last is below {edges[-1]:g}: scores from there to 1 have no decision"


def _schemas(manifest: Mapping[str, Any]) -> Iterator[str]:
    schemas = {}
    for name in ("input_schema", "output_schema"):
        if name in manifest:
            try:
                schemas[name] = jsonschema_rs.validator_for(dict(manifest[name]), offline=True)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # noqa: BLE001 - a panic in its Rust code is no Exception
                yield f"{name}: {str(error).splitlines()[0]}"  # references that lead elsewhere are not followed
    features = manifest["input_schema"]["properties"]
    if "features" in manifest and set(manifest["features"]) != set(features):
        yield "features: not those of the input schema"
    strange = set(manifest["input_schema"].get("required", ())) - set(features)
    if strange:
        yield f"input_schema: requires {', '.join(sorted(strange))}, which it does not describe"
    if "input_schema" in schemas:
        for wrong in schemas["input_schema"].iter_errors(manifest["example"]["features"]):
            yield f"example: {'/'.join(map(str, wrong.instance_path)) or 'features'}: {wrong.message[:160]}"
    if "example_result" in manifest:
        decisions = [band["decision"] for band in manifest["bands"]]
        if manifest["example_result"]["decision"] not in decisions:
            yield f"example_result: the decision is none of {', '.join(decisions)}"
        if "output_schema" in schemas and not schemas["output_schema"].is_valid(manifest["example_result"]):
            yield "example_result: not valid by output_schema"
