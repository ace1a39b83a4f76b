"""Encoding of tabular features: what ``preprocess.json`` says, applied to a batch.

Each number becomes its standardised value (after log1p where the column says so), a gap becomes the column's fill
with a mark beside it; each category becomes one column per known value, and one for "none of them".
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.contracts.work import Output

Row = Mapping[str, Any]
Found = list[list[dict[str, Any]]]
"""The anomalies of each row of a batch."""


class NumberColumn:
    """A numeric feature. ``low`` and ``high`` bound what training has seen; ``marks_gaps`` adds a column."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.name: str = spec["name"]
        self._log: bool = spec["log"]
        self._fill, self._mean, self._scale = spec["fill"], spec["mean"], spec["scale"]
        self._low, self._high = spec["low"], spec["high"]
        self._far: float = spec["far"]
        self._marks: bool = spec["marks_gaps"]

    @property
    def width(self) -> int:
        """Columns of the encoded form."""
        return 1 + self._marks

    def encode(self, rows: Sequence[Row], out: npt.NDArray[np.float32], found: Found) -> None:
        """Write the encoded column into ``out`` (rows, width).

        ``found``: values outside training's range, and within it those very far from the middle.
        """
        values = np.array([row.get(self.name) for row in rows], dtype=np.float64)  # None becomes NaN
        gaps = np.isnan(values)
        standardised = self._standardised(values)
        outside = (values < self._low) | (values > self._high)  # a gap is neither
        for place in np.flatnonzero(outside | (np.abs(standardised) > self._far)).tolist():
            kind = "out_of_range" if outside[place] else "outlier"
            found[place].append(self._anomaly(rows[place][self.name], kind))
        if gaps.any():
            standardised[gaps] = self._standardised(np.float64(self._fill))
        out[:, 0] = standardised
        if self._marks:
            out[:, 1] = gaps

    def _standardised(self, values: Any) -> Any:
        return ((np.log1p(values) if self._log else values) - self._mean) / self._scale

    def _anomaly(self, value: Any, kind: str) -> dict[str, Any]:
        return {"feature": self.name, "value": value, "kind": kind, "expected": {"min": self._low, "max": self._high}}


class CategoryColumn:
    """A categorical feature, one column for each known value and a last one for a gap or an unseen value."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.name: str = spec["name"]
        self._values: list[str] = spec["values"]
        self._places = {value: place for place, value in enumerate(self._values)}

    @property
    def width(self) -> int:
        """Columns of the encoded form."""
        return len(self._values) + 1

    def encode(self, rows: Sequence[Row], out: npt.NDArray[np.float32], found: Found) -> None:
        """Write the encoded columns into ``out`` (rows, width). ``found``: values that training has never seen."""
        values = [row.get(self.name) for row in rows]
        unknown = len(self._values)
        places = [self._places.get(value, unknown) for value in values]
        out[np.arange(len(rows)), places] = 1
        if unknown in places:
            for value, place, of_row in zip(values, places, found, strict=True):
                if place == unknown and value is not None:
                    of_row.append({"feature": self.name, "value": value, "kind": "unseen", "expected": self._values})


class Encoder:
    """All columns of a model, in the order of its manifest."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        kinds: dict[str, type[NumberColumn] | type[CategoryColumn]] = {
            "number": NumberColumn,
            "category": CategoryColumn,
        }
        self.columns = [kinds[spec["kind"]](spec) for spec in document["columns"]]
        self.width = sum(column.width for column in self.columns)

    def encode(self, rows: Sequence[Row]) -> tuple[npt.NDArray[np.float32], Found]:
        """Encoded features, float32 of shape (rows, width), and the anomalies of each row."""
        out = np.zeros((len(rows), self.width), dtype=np.float32)
        found: Found = [[] for _ in rows]
        start = 0
        for column in self.columns:
            column.encode(rows, out[:, start : start + column.width], found)
            start += column.width
        return out, found

    def outputs(self, rows: Sequence[Row]) -> list[Output]:
        """Each row as the model reads it (float32 bytes), with its anomalies."""
        encoded, found = self.encode(rows)
        text, size = encoded.tobytes(), encoded.itemsize * self.width
        return [Output(text[row * size : (row + 1) * size], of_row) for row, of_row in enumerate(found)]
