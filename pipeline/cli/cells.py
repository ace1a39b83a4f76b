"""The cells of a CSV file: how each is read, by its feature in the model's input schema.

================ ====================================================================================================
feature          its cell
================ ====================================================================================================
number, integer  digits with a point and an exponent as in JSON, spaces around them; no thousands separators
boolean          ``true`` or ``false``, in any case
text             the cell as it is
one of a list    the member that is written so; any other text is sent as it is, and ends as ``invalid``
any of these     an empty cell is null where null is allowed; else the feature is left out where it may be missing;
                 else it is the empty text where text is allowed. ``NA`` is null where null is allowed, unless it is
                 a text that the feature can have
================ ====================================================================================================
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

_EXACT = 2**53
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,400}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,6})?")
_WHOLE = re.compile(r"[+-]?[0-9]+")
_NOT_TAKEN = "it cannot be read from CSV: write the rows as JSONL"


class BadCell(ValueError):
    """A cell or a feature's schema cannot be read. The message does not name the feature."""


Cell = Callable[[str], Any]
"""Reads a cell; BadCell. ``LEFT_OUT`` where the row has no such feature."""
LEFT_OUT = object()


def cell_of(schema: Any, root: Mapping[str, Any], *, required: bool) -> Cell:
    """Returns how a cell of a feature with this schema is read; BadCell if CSV cannot hold what it allows."""
    kinds, members = _allowed(schema, root, depth=8)
    nullable = "null" in kinds or (members is not None and None in members)
    kinds = kinds - {"null"}
    if members is not None:
        read, texts = _one_of(members)
    elif kinds == {"string"}:
        read, texts = str, None
    elif kinds and kinds <= {"number", "integer", "boolean"}:
        read, texts = _plain(kinds), frozenset()
    else:
        raise BadCell(f"may be {', '.join(map(repr, sorted(kinds))) or 'anything'}: {_NOT_TAKEN}")

    def cell(text: str) -> Any:
        if text == "":
            if texts is not None and "" in texts:
                return text
            if nullable:
                return None
            if not required:
                return LEFT_OUT
            if texts is None:
                return text
            raise BadCell("the cell is empty, and the feature may be neither null nor missing")
        if text == "NA" and nullable and texts is not None and text not in texts:
            return None
        return read(text)

    return cell


def _allowed(schema: Any, root: Mapping[str, Any], depth: int) -> tuple[frozenset[str], list[Any] | None]:
    """Returns the JSON types that a feature may have, and its values if the schema lists them."""
    if not isinstance(schema, Mapping) or depth == 0:
        return frozenset(), None
    if "enum" in schema or "const" in schema:
        return frozenset(), list(schema["enum"]) if "enum" in schema else [schema["const"]]
    if "type" in schema:
        kinds = schema["type"]
        return frozenset([kinds] if isinstance(kinds, str) else kinds), None
    if "$ref" in schema:
        return _allowed(_target(schema["$ref"], root), root, depth - 1)
    for word in ("anyOf", "oneOf", "allOf"):
        if word in schema and (word != "allOf" or len(schema[word]) == 1):
            return _union([_allowed(part, root, depth - 1) for part in schema[word]])
    return frozenset(), None


def _union(parts: list[tuple[frozenset[str], list[Any] | None]]) -> tuple[frozenset[str], list[Any] | None]:
    listed = [member for _, members in parts for member in members or ()]
    kinds = frozenset().union(*(kinds for kinds, _ in parts))
    if not listed:
        # A part without known types allows anything.
        return (kinds if all(kinds for kinds, _ in parts) else frozenset()), None
    if kinds - {"null"}:
        return frozenset(), None  # some values are listed, others are not
    return kinds, listed


def _target(reference: Any, root: Mapping[str, Any]) -> Any:
    """Returns what a reference into the schema itself (``#/$defs/NAME``) points at; None for any other."""
    at: Any = root
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return None
    for part in reference[2:].split("/"):
        at = at.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(at, Mapping) else None
    return at


def _one_of(members: list[Any]) -> tuple[Cell, frozenset[str]]:
    """Returns how to read one of the values that a schema lists, and those of them that are text."""
    texts = frozenset(member for member in members if isinstance(member, str))
    others = [member for member in members if member is not None and not isinstance(member, str)]
    if not others:
        return str, texts
    if texts or not all(isinstance(member, int | float) for member in others):
        raise BadCell(f"may be one of {members!r}, text and others: {_NOT_TAKEN}")
    plain = _plain(frozenset("boolean" if isinstance(member, bool) else "number" for member in others))

    def read(text: str) -> Any:
        value = plain(text)
        same = (each for each in others if each == value and isinstance(each, bool) == isinstance(value, bool))
        return next(same, value)

    return read, texts


def _plain(kinds: frozenset[str]) -> Cell:
    """Returns how to read a number, a boolean, or a value that may be either."""

    def read(text: str) -> Any:
        bare = text.strip(" \t")
        if "boolean" in kinds:
            if bare.lower() in ("true", "false"):
                return bare.lower() == "true"
            if kinds == {"boolean"}:
                raise BadCell(f"{_shown(text)} is neither true nor false")
        return _number(text, bare, whole="number" not in kinds)

    return read


def _number(text: str, bare: str, *, whole: bool) -> int | float:
    if not _NUMBER.fullmatch(bare):
        raise BadCell(f"{_shown(text)} is not a number{_advice(bare)}")
    if _WHOLE.fullmatch(bare) and len(bare) <= 17 and abs(exact := int(bare)) <= _EXACT:
        return exact
    value = float(bare)
    if abs(value) == float("inf"):
        raise BadCell(f"{_shown(text)} is too large for a number")
    if _WHOLE.fullmatch(bare) and int(value) != int(bare):
        raise BadCell(f"{_shown(text)} has more digits than a number keeps: it would become {value!r}")
    if not whole:
        return value
    if not value.is_integer() or abs(value) > _EXACT:
        raise BadCell(f"{_shown(text)} is not an integer" + (" that is exact" if value.is_integer() else ""))
    return int(value)


def _advice(bare: str) -> str:
    if bare.lower() in ("nan", "null", "none", "n/a", "na", "#n/a", "inf", "-inf", "infinity", "-", "?"):
        return ": leave the cell empty where there is none"
    if "," in bare:
        return ": write it with a decimal point and without separators"
    return ""


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
