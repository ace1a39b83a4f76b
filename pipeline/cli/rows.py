"""The rows of a producer's file: each read exactly as it is meant, or the file refused with the cause and the line.

A CSV file (RFC 4180, UTF-8, commas) has a header that names features, each once. Cells
are read as ``pipeline.cli.cells`` says.

A JSONL file has one object a line: the features, or a request as ``POST /v1/scores/batch`` takes it.
"""

import csv
import difflib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from pipeline.cli.cells import LEFT_OUT, BadCell, Cell, cell_of
from pipeline.contracts.envelope import ScoreRequest, ScoreRow, check_row
from pipeline.contracts.problems import InvalidRequest
from pipeline.contracts.strict_json import NotStrict, parse

LONGEST_LINE = 16 << 20
"""Characters of a line. What is longer is no row: the file has other line ends, or none."""
SHOWN = 5
"""How many bad rows a refusal names."""
_RECORD = re.compile(r'(?:"(?:[^"]|"")*+"|[^",]*+)(?:,(?:"(?:[^"]|"")*+"|[^",]*+))*+')


class BadFile(Exception):
    """The file cannot be read as it is meant. The message names the lines, and says what to do."""


class _BadRow(Exception):
    """One row cannot be read; those after it can."""


def open_rows(path: Path, model: str, schema: Mapping[str, Any], ignored: Collection[str] = ()) -> "Rows":
    """The rows of ``path`` as requests of ``model``, whose input schema is ``schema``; BadFile.

    ``ignored``: columns of a CSV file that are no features, and are left out knowingly.
    """
    if path.suffix == ".jsonl":
        if ignored:
            raise BadFile(f"{path}: --ignore is for the columns of a CSV file")
        kind: Callable[[BinaryIO], Rows] = lambda file: JsonRows(path, file, model, schema)  # noqa: E731
    elif path.suffix == ".csv":
        kind = lambda file: CsvRows(path, file, model, schema, ignored)  # noqa: E731
    else:
        raise BadFile(f"{path}: expected a file that ends in .csv or .jsonl")
    if not path.is_file():
        raise BadFile(f"{path}: not a regular file; it is read twice, to check every row before the first is sent")
    try:
        return kind(path.open("rb"))
    except OSError as error:
        raise BadFile(f"{path} cannot be read: {error.strerror}") from None


class Rows(ABC):
    """A file's rows. ``check`` reads all of them, and then each iteration does again; one row is held at a time."""

    def __init__(self, path: Path, file: BinaryIO, model: str) -> None:
        self.path = path
        self.model = model
        # Undecodable bytes become lone surrogates, which UTF-8 never has: so the line that holds one is known.
        self._text = TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        self._line = 0
        """The number of the line read last, from 1."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._text.close()

    def check(self, tell: Callable[[int], None] = lambda _: None) -> int:
        """Read every row; how many there are. BadFile names the first rows that are wrong. ``tell`` hears the count."""
        count, wrong, bad = 0, 0, []
        for row in self._rows():
            count += 1
            if isinstance(row, _BadRow):
                wrong += 1
                if wrong <= SHOWN:
                    bad.append(str(row))
            if count % 1000 == 0:
                tell(count)
        if wrong:
            more = f"\nand {wrong - SHOWN} more rows" if wrong > SHOWN else ""
            raise BadFile("\n".join(bad) + more + "\nno row was sent")
        return count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Each row as a request; BadFile if the file was changed since it was checked."""
        for row in self._rows():
            if isinstance(row, _BadRow):
                raise BadFile(f"{row}\nthe file was changed while it was read")
            yield row

    @abstractmethod
    def _rows(self) -> Iterator[dict[str, Any] | _BadRow]:
        """Requests, and what is wrong with rows that are none; BadFile where no more can be read."""

    def _lines(self) -> Iterator[str]:
        """Lines with their ends; BadFile."""
        try:
            self._text.seek(0)
            self._line = 0
            while line := self._text.readline(LONGEST_LINE):
                self._line += 1
                self._check_line(line)
                yield line
        except OSError as error:
            raise BadFile(f"{self.path} cannot be read: {error.strerror}") from None

    def _check_line(self, line: str) -> None:
        if not line.isascii() and (found := re.search("[\udc80-\udcff]", line)):
            byte = ord(found[0]) - 0xDC00
            if self._line == 1 and line.startswith(("\udcff\udcfe", "\udcfe\udcff")):
                self._refuse("the file is UTF-16, not UTF-8: save it as UTF-8 (in Excel: CSV UTF-8)")
            self._refuse(f"byte 0x{byte:02x} is not UTF-8: save the file as UTF-8 (in Excel: CSV UTF-8)")
        if "\0" in line:
            self._refuse("a NUL byte: this is no text, or the file is damaged")
        if len(line) == LONGEST_LINE:
            self._refuse(f"longer than {LONGEST_LINE} characters")

    def _where(self, line: int | None = None) -> str:
        return f"{self.path}, line {line or self._line}"

    def _refuse(self, reason: str, line: int | None = None) -> None:
        raise BadFile(f"{self._where(line)}: {reason}")


class JsonRows(Rows):
    """One JSON object a line; blank lines are none."""

    def __init__(self, path: Path, file: BinaryIO, model: str, schema: Mapping[str, Any]) -> None:
        super().__init__(path, file, model)
        # A model may have a feature of that name: then a row is its features, as ever.
        self._may_be_request = "features" not in schema.get("properties", {})

    def _rows(self) -> Iterator[dict[str, Any] | _BadRow]:
        for line in self._lines():
            if line.strip():
                try:
                    yield self._request(line)
                except (NotStrict, BadCell) as error:
                    yield _BadRow(f"{self._where()}: {error}")

    def _request(self, line: str) -> dict[str, Any]:
        row = parse(line)
        if not isinstance(row, dict):
            raise BadCell("expected an object of features")
        request = row if self._may_be_request and "features" in row else {"features": row}
        if request.get("model", self.model) != self.model:
            raise BadCell(f"the row is for the model {request['model']!r}, and --model says {self.model!r}")
        request = {**request, "model": self.model}
        try:
            check_row(request)
        except InvalidRequest as problem:
            extra = sorted(request.keys() - ScoreRequest.model_fields.keys() - ScoreRow.model_fields.keys())
            advice = f" (beside 'features' a row may hold {_members(ScoreRow.model_fields)})" if extra else ""
            raise BadCell(problem.detail + advice) from None
        return request


class CsvRows(Rows):
    """A header of features, and a row of as many cells on each line; blank lines are none."""

    def __init__(
        self, path: Path, file: BinaryIO, model: str, schema: Mapping[str, Any], ignored: Collection[str]
    ) -> None:
        super().__init__(path, file, model)
        self._schema = schema
        self._ignored = frozenset(ignored)

    def _rows(self) -> Iterator[dict[str, Any] | _BadRow]:
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
                yield _BadRow(f"{self._where(line)}: {error}")

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """Each record that is not blank, and the line on which it begins."""
        taken: list[str] = []

        def lines() -> Iterator[str]:
            for line in self._lines():
                taken.append(line)
                yield line

        reader = csv.reader(lines(), strict=True)
        blank = 0
        while True:
            first = self._line + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                self._refuse(_meant(str(error)), first)
            if cells is None:
                return
            if not cells:
                blank = blank or first
                taken.clear()
                continue
            text = "".join(taken)
            taken.clear()
            if '"' in text and not _RECORD.fullmatch(text.rstrip("\r\n")):
                self._refuse(
                    'a quote (") stands in a cell that does not begin with one: put the whole cell in quotes, and '
                    "write each quote in it twice",
                    first,
                )
            if blank and len(cells) == 1:
                self._refuse('blank: is it an empty cell? Write it as ""', blank)
            yield first, cells

    def _columns(self, names: list[str]) -> list[tuple[str, Cell] | None]:
        """How each column is read, None for one that is left out; BadFile."""
        properties = self._schema.get("properties", {})
        if names[0].lower().startswith("sep="):
            self._refuse("remove this line: it is Excel's, and no header")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            self._refuse(f"the header names {_members(twice)} twice: which one counts?")
        strange = [name for name in names if name not in properties and name not in self._ignored]
        if strange and len(names) == 1 and (other := next((mark for mark in ";\t|" if mark in names[0]), None)):
            self._refuse(f"the columns are separated by {other!r}: save the file with commas (and points in numbers)")
        if "" in strange:
            self._refuse(f"column {names.index('') + 1} of the header has no name: is it an index? Leave it out")
        if strange:
            self._refuse(
                f"{self.model} has no feature {', '.join(_suggested(name, properties) for name in strange)}; name "
                "columns that are no features with --ignore NAME"
            )
        unknown = sorted(self._ignored - set(names))
        if unknown:
            raise BadFile(f"{self.path}: --ignore {_members(unknown)}: the header has no such column")
        features = sorted(self._ignored & set(properties))
        if features:
            raise BadFile(f"{self.path}: --ignore {_members(features)}: that is a feature of {self.model}")
        missing = [name for name in self._schema.get("required", ()) if name not in names]
        if missing:
            self._refuse(f"the header lacks {_members(missing)}, which {self.model} requires")
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


def _members(names: Collection[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _suggested(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1) or difflib.get_close_matches(
        name.strip().lower(), [each.lower() for each in known], n=1
    )
    meant = next((each for each in known if close and each.lower() == close[0].lower()), None)
    return f"{name!r}" + (f" (did you mean {meant!r}?)" if meant else "")


def _meant(error: str) -> str:
    """What is wrong, from csv's own words for it."""
    if "unexpected end of data" in error or "field larger" in error:
        return 'a quote (") is opened here and not closed'
    if "expected after" in error:
        return 'text after a closing quote ("): write each quote in a quoted cell twice'
    return error
