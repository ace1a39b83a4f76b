"""CSV files (RFC 4180, UTF-8, commas): a header that names features, each once, and one row of cells a line.

Cells are read as ``pipeline.cli.cells`` says.
"""

import csv
import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.cli.cells import LEFT_OUT, BadCell, Cell, cell_of
from pipeline.cli.row_file import BadFile, BadRow, RowFile, quoted

_RECORD = re.compile(r'(?:"(?:[^"]|"")*+"|[^",]*+)(?:,(?:"(?:[^"]|"")*+"|[^",]*+))*+')


class CsvRows(RowFile):
    """Reads a header of features, then rows with as many cells; blank lines are skipped."""

    def __init__(
        self, path: Path, file: BinaryIO, model: str, schema: Mapping[str, Any], ignored: Collection[str]
    ) -> None:
        super().__init__(path, file, model)
        self._schema = schema
        self._ignored = frozenset(ignored)

    def _rows(self) -> Iterator[dict[str, Any] | BadRow]:
        records = self._records()
        header = next(records, None)
        if header is None:
            raise BadFile(f"{self.path} is empty: expected a header that names the features")
        names = header[1]
        columns = self._columns(names)
        for line, cells in records:
            try:
                yield {"model": self.model, "features": _features(names, columns, cells)}
            except BadCell as error:
                yield BadRow(f"{self.where(line)}: {error}")

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """Yields each record that is not blank, with the number of its first line."""
        taken: list[str] = []

        def lines() -> Iterator[str]:
            for line in self.lines():
                taken.append(line)
                yield line

        reader = csv.reader(lines(), strict=True)
        blank = 0
        while True:
            first = self.line + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                self.refuse(_explained(str(error)), first)
            if cells is None:
                return
            if not cells:
                blank = blank or first
                taken.clear()
                continue
            text = "".join(taken)
            taken.clear()
            if '"' in text and not _RECORD.fullmatch(text.rstrip("\r\n")):
                self.refuse(
                    'a quote (") stands in a cell that does not begin with one: put the whole cell in quotes, and '
                    "write each quote in it twice",
                    first,
                )
            if blank and len(cells) == 1:
                self.refuse('blank: is it an empty cell? Write it as ""', blank)
            yield first, cells

    def _columns(self, names: list[str]) -> list[tuple[str, Cell] | None]:
        """Returns how each column is read, None for an ignored one; BadFile."""
        properties = self._schema.get("properties", {})
        if names[0].lower().startswith("sep="):
            self.refuse("remove this line: it is Excel's, and no header")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            self.refuse(f"the header names {quoted(twice)} twice: which one counts?")
        strange = [name for name in names if name not in properties and name not in self._ignored]
        if strange and len(names) == 1 and (other := next((mark for mark in ";\t|" if mark in names[0]), None)):
            self.refuse(f"the columns are separated by {other!r}: save the file with commas (and points in numbers)")
        if "" in strange:
            self.refuse(f"column {names.index('') + 1} of the header has no name: is it an index? Leave it out")
        if strange:
            self.refuse(
                f"{self.model} has no feature {', '.join(_suggested(name, properties) for name in strange)}; name "
                "columns that are no features with --ignore NAME"
            )
        unknown = sorted(self._ignored - set(names))
        if unknown:
            raise BadFile(f"{self.path}: --ignore {quoted(unknown)}: the header has no such column")
        features = sorted(self._ignored & set(properties))
        if features:
            raise BadFile(f"{self.path}: --ignore {quoted(features)}: that is a feature of {self.model}")
        missing = [name for name in self._schema.get("required", ()) if name not in names]
        if missing:
            self.refuse(f"the header lacks {quoted(missing)}, which {self.model} requires")
        return [None if name in self._ignored else (name, self._cell(name)) for name in names]

    def _cell(self, name: str) -> Cell:
        required = name in self._schema.get("required", ())
        try:
            return cell_of(self._schema["properties"][name], self._schema, required=required)
        except BadCell as error:
            raise BadFile(f"{self.path}: the feature {name!r} {error}") from None


def _features(names: list[str], columns: list[tuple[str, Cell] | None], cells: list[str]) -> dict[str, Any]:
    if len(cells) != len(columns):
        raise BadCell(
            f"{len(cells)} cells, and the header has {len(columns)}: a cell is missing, or one with a comma in it is "
            "not in quotes"
        )
    features = {}
    for column, text in zip(columns, cells, strict=True):
        if column is not None:
            name, read = column
            try:
                value = read(text)
            except BadCell as error:
                raise BadCell(f"{name}: {error}") from None
            if value is not LEFT_OUT:
                features[name] = value
    return features


def _suggested(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1) or difflib.get_close_matches(
        name.strip().lower(), [each.lower() for each in known], n=1
    )
    meant = next((each for each in known if close and each.lower() == close[0].lower()), None)
    return f"{name!r}" + (f" (did you mean {meant!r}?)" if meant else "")


def _explained(error: str) -> str:
    """Returns what is wrong, given the csv module's message."""
    if "unexpected end of data" in error or "field larger" in error:
        return 'a quote (") is opened here and not closed'
    if "expected after" in error:
        return 'text after a closing quote ("): write each quote in a quoted cell twice'
    return error
