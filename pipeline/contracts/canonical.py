"""One form for equal JSON documents, to hash and compare them.

Two documents have the same canonical form exactly if RFC 8785 (JSON Canonicalization Scheme) gives them the same text:
the order of names does not count, nor whether 100 was written as 100.0. The bytes are msgpack instead of that text,
because they are compared only with each other, and packing is several times faster.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import msgpack

_EXACT = 2**53
"""Integers up to here are exact as doubles, which is all that JSON numbers are in RFC 8785."""


def canonical(document: Any) -> bytes:
    """The canonical form of JSON values; TypeError or ValueError for what is none."""
    try:
        packed: bytes = msgpack.packb(_normal(document))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return packed


def digest(*parts: Any) -> bytes:
    """SHA-256 of the canonical forms of ``parts``, its first 16 bytes."""
    return hashlib.sha256(canonical(parts)).digest()[:16]


def _normal(value: Any) -> Any:
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if kind is float:
        return int(value) if value.is_integer() and -_EXACT <= value <= _EXACT else value
    if kind is int:
        return value if -_EXACT <= value <= _EXACT else _as_double(value)
    if isinstance(value, Mapping):
        return _normal_mapping(value)
    if isinstance(value, list | tuple):
        return [_normal(item) for item in value]
    plain = next((base for base in (str, float, int) if isinstance(value, base)), None)
    return _normal(plain(value)) if plain else value  # a kind of number counts as a number


def _normal_mapping(mapping: Mapping[str, Any]) -> dict[str, Any]:
    # Plain values are looked at here: a call for each would be half the cost of accepting a request.
    normal = {}
    for name in sorted(mapping):
        value = mapping[name]
        kind = type(value)
        if kind is float:
            if value.is_integer() and -_EXACT <= value <= _EXACT:
                value = int(value)
        elif kind is int:
            if not -_EXACT <= value <= _EXACT:
                value = _as_double(value)
        elif kind is not str:
            value = _normal(value)
        normal[name] = value
    return normal


def _as_double(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
