"""A model's features in an order of their own: who has exactly those is stored without their names.

Half of what a stored input of many numbers takes is their names, the same ones for every request of a model version.
That version is pinned when a request is accepted and never changes its content, so its schema can name them again.
"""

from collections.abc import Mapping, Sequence
from typing import Any


def feature_names(input_schema: Mapping[str, Any]) -> tuple[str, ...]:
    """The names in a model's input schema (JSON Schema: an object of named features), in the order for storing."""
    return tuple(sorted(input_schema.get("properties", ())))


def without_names(features: Mapping[str, Any], names: Sequence[str]) -> list[Any] | Mapping[str, Any]:
    """The values alone if the features are exactly those; else the features as they are: one is missing, or unknown."""
    if not names or len(features) != len(names):
        return features
    try:
        return [features[name] for name in names]
    except KeyError:
        return features


def with_names(stored: list[Any] | Mapping[str, Any], names: Sequence[str]) -> Mapping[str, Any]:
    """The features again; ValueError if these are not the values of those names."""
    return dict(zip(names, stored, strict=True)) if isinstance(stored, list) else stored
