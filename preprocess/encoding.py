"""Encoding of tabular features: what ``preprocess.json`` says, applied to a batch.

A number becomes its standardised value (after log1p where the column says so); a missing one becomes the column's fill,
with a mark beside it. A category becomes one column for each known value, and one for any other.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.contracts.work import Output

Row = Mapping[str, Any]
Floats = npt.NDArray[np.float32]
Found = list[list[dict[str, Any]]]
"""The anomalies of each row of a batch."""


class NumberColumns:
    """Adjacent numeric features, encoded together: a call of numpy costs more than the numbers of a small batch.

    ``low`` and ``high`` bound what training saw of a feature; ``marks_gaps`` adds a column that marks a missing value.
    """

    def __init__(self, specs: Sequence[Mapping[str, Any]]) -> None:
        self._names: list[str] = [spec["name"] for spec in specs]
        self._logs = np.flatnonzero([spec["log"] for spec in specs])
        self._mean, self._scale, self._low, self._high, self._far = (
            np.array([spec[field] for spec in specs], dtype=np.float64)
            for field in ("mean", "scale", "low", "high", "far")
        )
        if not (self._scale > 0).all():
            raise ValueError("a column's scale is not above 0")
        self._fill = self._standardised(np.array([[spec["fill"] for spec in specs]], dtype=np.float64))[0]
        self._marked = np.flatnonzero([spec["marks_gaps"] for spec in specs])
        widths = np.array([1 + spec["marks_gaps"] for spec in specs])
        self._places = np.cumsum(widths) - widths
        self.width = int(widths.sum())
        """Columns of the encoded form."""

    def encode(self, rows: Sequence[Row], out: Floats, found: Found) -> None:
        """Writes the encoded columns into ``out`` (rows, width).

        Adds anomalies to ``found``: values outside training's range, and those within it that are far from the mean.
        """
        if not rows:
            return
        names = self._names
        values = np.array([[row.get(name) for name in names] for row in rows], dtype=np.float64)  # None becomes NaN
        gaps = np.isnan(values)
        standardised = self._standardised(values)
        outside = (values < self._low) | (values > self._high)  # a missing value is neither
        for row, place in np.argwhere(outside | (np.abs(standardised) > self._far)).tolist():
            kind = "out_of_range" if outside[row, place] else "outlier"
            found[row].append(self._anomaly(rows[row][names[place]], place, kind))
        out[:, self._places] = np.where(gaps, self._fill, standardised)
        out[:, self._places[self._marked] + 1] = gaps[:, self._marked]

    def _standardised(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        if self._logs.size:
            values = values.copy()
            values[:, self._logs] = np.log1p(values[:, self._logs])
        standardised: npt.NDArray[np.float64] = (values - self._mean) / self._scale
        return standardised

    def _anomaly(self, value: Any, place: int, kind: str) -> dict[str, Any]:
        expected = {"min": float(self._low[place]), "max": float(self._high[place])}
        return {"feature": self._names[place], "value": value, "kind": kind, "expected": expected}


class CategoryColumns:
    """Adjacent categorical features: for each, a column for every known value and one for any other."""

    def __init__(self, specs: Sequence[Mapping[str, Any]]) -> None:
        self._specs = [(spec["name"], spec["values"]) for spec in specs]
        self._places: list[dict[Any, int]] = []
        self._unknown: list[int] = []
        self.width = 0
        """Columns of the encoded form."""
        for _, values in self._specs:
            self._places.append({value: self.width + place for place, value in enumerate(values)})
            self._unknown.append(self.width + len(values))
            self.width += len(values) + 1

    def encode(self, rows: Sequence[Row], out: Floats, found: Found) -> None:
        """Writes the encoded columns into ``out`` (rows, width); adds values that training never saw to ``found``."""
        marked = []
        for (name, known), places, unknown in zip(self._specs, self._places, self._unknown, strict=True):
            values = [row.get(name) for row in rows]
            column = [places.get(value, unknown) for value in values]
            marked.append(column)
            if unknown in column:
                for value, place, of_row in zip(values, column, found, strict=True):
                    if place == unknown and value is not None:
                        of_row.append({"feature": name, "value": value, "kind": "unseen", "expected": known})
        out[np.arange(len(rows)), np.array(marked, dtype=np.intp)] = 1


class Encoder:
    """All columns of a model, in the order of its manifest."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        kinds: dict[str, type[NumberColumns] | type[CategoryColumns]] = {
            "number": NumberColumns,
            "category": CategoryColumns,
        }
        self._blocks = [kinds[kind](list(specs)) for kind, specs in groupby(document["columns"], itemgetter("kind"))]
        self.width = sum(block.width for block in self._blocks)

    def encode(self, rows: Sequence[Row]) -> tuple[Floats, Found]:
        """Returns encoded features, float32 of shape (rows, width), and the anomalies of each row."""
        out = np.zeros((len(rows), self.width), dtype=np.float32)
        found: Found = [[] for _ in rows]
        start = 0
        for block in self._blocks:
            block.encode(rows, out[:, start : start + block.width], found)
            start += block.width
        return out, found

    def outputs(self, rows: Sequence[Row]) -> list[Output]:
        """Returns each row as the model reads it (float32 bytes), with its anomalies."""
        encoded, found = self.encode(rows)
        text, size = encoded.tobytes(), encoded.itemsize * self.width
        return [Output(text[row * size : (row + 1) * size], of_row) for row, of_row in enumerate(found)]
