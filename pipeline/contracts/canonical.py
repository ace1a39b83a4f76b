"""One form for equal JSON documents, to hash and compare them.

Two documents have the same canonical form exactly if RFC 8785 (JSON Canonicalization Scheme) gives them the same text:
the order of names does not count, nor whether 100 was written as 100.0. The bytes are not that text, for they are
compared only with each other: they are what orjson makes of the document once its numbers are brought into one form.
"""

import hashlib
import re
from collections.abc import Mapping
from math import isfinite
from typing import Any

import orjson

_EXACT = 2**53
"""Integers up to here are exact as doubles, which is all that JSON numbers are in RFC 8785."""

_SORTED = orjson.OPT_SORT_KEYS
_PLAIN = (
    _SORTED
    | orjson.OPT_STRICT_INTEGER
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)
_WHOLE_FLOAT = re.compile(rb"\.0(?:[],}]|$)")


def canonical(document: Any) -> bytes:
    """The canonical form of JSON values; TypeError or ValueError for what is none."""
    plain = document
    if type(document) is dict:  # features, mostly flat: their whole floats in the form that integers have
        plain = {
            name: int(value) if type(value) is float and value.is_integer() else value
            for name, value in document.items()
        }
    try:
        text = orjson.dumps(plain, option=_PLAIN)
    except TypeError:  # an integer too large to be exact, a kind of number or mapping, or what is no JSON
        return _normalized(document)
    # Most documents are in the one form now: look for what is not in their text, instead of at each value.
    if b".0" in text and _WHOLE_FLOAT.search(text):  # nested
        return _normalized(document)
    if b"null" in text and text.count(b"null") != _gaps(plain):  # it may have been NaN
        return _normalized(document)
    return text


def digest(*parts: Any) -> bytes:
    """SHA-256 of the canonical forms of ``parts``, its first 16 bytes."""
    return hashlib.sha256(canonical(parts)).digest()[:16]


def _gaps(document: Any) -> int:
    return sum(value is None for value in document.values()) if type(document) is dict else 0


def _normalized(document: Any) -> bytes:
    try:
        return orjson.dumps(_normal(document), option=_SORTED)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _normal(value: Any) -> Any:
    kind = type(value)
    if kind is float:
        if not isfinite(value):
            raise ValueError(f"{value} is not a JSON number")
        return int(value) if value.is_integer() and -_EXACT <= value <= _EXACT else value
    if kind is str or kind is bool or value is None:
        return value
    if kind is int:
        return value if -_EXACT <= value <= _EXACT else _normal(_as_double(value))
    if isinstance(value, Mapping):
        return _normal_mapping(value)
    if isinstance(value, list | tuple):
        return [_normal(item) for item in value]
    plain = next((base for base in (str, float, int) if isinstance(value, base)), None)
    if plain is None:
        raise TypeError(f"{type(value).__name__} is not a JSON value")
    return _normal(plain(value))  # a kind of number counts as a number


def _normal_mapping(mapping: Mapping[Any, Any]) -> dict[str, Any]:
    # The usual values are looked at here: a call for each would be half the cost.
    normal = {}
    for name, value in mapping.items():
        key, kind = name if type(name) is str else _name(name), type(value)
        if kind is float and value.is_integer() and -_EXACT <= value <= _EXACT:
            normal[key] = int(value)
        else:
            normal[key] = value if kind is str else _normal(value)
    return normal


def _name(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"the name {name!r} is not text")
    return str(name)


def _as_double(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        raise ValueError("a number is too large for a double") from None
