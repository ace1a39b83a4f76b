"""Validation of features against a model's input schema, with messages that a producer can act on."""

import math
from collections.abc import Mapping
from typing import Any

import jsonschema_rs


class InputSchema:
    """A model's input schema (JSON Schema: an object of named features), compiled.

    A whole row is checked in one compiled pass; only a row that fails is checked feature by feature.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._properties: Mapping[str, Any] = schema["properties"]
        self._required = list(schema.get("required", ()))
        self._whole = jsonschema_rs.validator_for(dict(schema))
        self._single = {name: jsonschema_rs.validator_for(part) for name, part in self._properties.items()}

    def problems(self, features: Mapping[str, Any]) -> list[str]:
        """Returns what is wrong, a line for each feature: its name, its value, what is allowed."""
        # JSON has neither NaN nor infinity, so a schema cannot refuse them.
        unreal = [name for name, value in features.items() if isinstance(value, float) and not math.isfinite(value)]
        if not unreal and self._whole.is_valid(features):
            return []
        lines = [
            f"{name}: is missing; allowed: {allowed(self._properties.get(name, {}))}"
            for name in self._required
            if name not in features
        ]
        for name, value in features.items():
            if name not in self._properties:
                lines.append(f"{name}: is not a feature of this model; allowed: {', '.join(self._properties)}")
            elif name in unreal or not self._single[name].is_valid(value):
                lines.append(f"{name}: was {show(value)}; allowed: {allowed(self._properties[name])}")
        return lines


def show(value: Any) -> str:
    """Returns a value for a message: short, and with quotes around strings."""
    text = repr(value) if isinstance(value, str | float | int | bool | None) else type(value).__name__
    return text if len(text) <= 80 else text[:77] + "..."


def allowed(schema: Mapping[str, Any]) -> str:
    """Returns what a feature's schema allows, in words."""
    if "enum" in schema:
        return ", ".join("null" if value is None else repr(value) for value in schema["enum"])
    kinds = schema.get("type", "anything")
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    words = " or ".join(f"a {kind}" if kind != "integer" else "an integer" for kind in kinds if kind != "null")
    if "minimum" in schema and "maximum" in schema:
        words += f" from {schema['minimum']:g} to {schema['maximum']:g}"
    elif "minimum" in schema:
        words += f" of at least {schema['minimum']:g}"
    elif "maximum" in schema:
        words += f" of at most {schema['maximum']:g}"
    return words + (", or null" if "null" in kinds else "")
