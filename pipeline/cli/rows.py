"""The rows of a producer's file: each read exactly as it is meant, or the file refused with the cause and the line.

A CSV file (RFC 4180, UTF-8, commas) has a header that names features, each once. A cell becomes what the model's input
schema says its feature is:

================ ====================================================================================================
feature          its cell
================ ====================================================================================================
number, integer  digits with a point and an exponent as in JSON, spaces around them; no thousands separators
boolean          ``true`` or ``false``, in any case
text             the cell as it is
one of a list    the member that is written so; another text is sent as it is, and ends as ``invalid``
any of these     an empty cell is null where null is allowed; else the feature is left out where it may be missing;
                 else it is the empty text where text is allowed. ``NA`` is null where null is allowed, unless it is
                 a text that the feature can have
================ ====================================================================================================

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

from pipeline.contracts.envelope import ScoreRequest, ScoreRow, check_row
from pipeline.contracts.problems import InvalidRequest
from pipeline.strict_json import NotStrict, parse

LONGEST_LINE = 16 << 20
"""Characters of a line. What is longer is no row: the file has other line ends, or none."""
SHOWN = 5
"""How many bad rows a refusal names."""
_EXACT = 2**53
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,400}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,6})?")
_WHOLE = re.compile(r"[+-]?[0-9]+")
_RECORD = re.compile(r'(?:"(?:[^"]|"")*+"|[^",]*+)(?:,(?:"(?:[^"]|"")*+"|[^",]*+))*+')
_NOT_TAKEN = "it cannot be read from CSV: write the rows as JSONL"


class BadFile(Exception):
    """The file cannot be read as it is meant. The message names the lines, and says what to do."""


class _BadRow(Exception):
    """One row cannot be read; those after it can."""


class _BadCell(ValueError):
    """What is wrong with a cell, or with a feature's schema, without the feature's name."""


Cell = Callable[[str], Any]
"""Reads a cell; _BadCell. ``_LEFT_OUT`` where the row has no such feature."""
_LEFT_OUT = object()


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
                except (NotStrict, _BadCell) as error:
                    yield _BadRow(f"{self._where()}: {error}")

    def _request(self, line: str) -> dict[str, Any]:
        row = parse(line)
        if not isinstance(row, dict):
            raise _BadCell("expected an object of features")
        request = row if self._may_be_request and "features" in row else {"features": row}
        if request.get("model", self.model) != self.model:
            raise _BadCell(f"the row is for the model {request['model']!r}, and --model says {self.model!r}")
        request = {**request, "model": self.model}
        try:
            check_row(request)
        except InvalidRequest as problem:
            extra = sorted(request.keys() - ScoreRequest.model_fields.keys() - ScoreRow.model_fields.keys())
            advice = f" (beside 'features' a row may hold {_members(ScoreRow.model_fields)})" if extra else ""
            raise _BadCell(problem.detail + advice) from None
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
            except _BadCell as error:
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
        except _BadCell as error:
            raise BadFile(f"{self.path}: the feature {name!r} {error}") from None


def _features(names: list[str], columns: list[tuple[str, Cell] | None], cells: list[str]) -> dict[str, Any]:
    if len(cells) != len(columns):
        raise _BadCell(
            f"{len(cells)} cells, and the header has {len(columns)}: a cell is missing, or one with a comma in it is "
            "not in quotes"
        )
    features = {}
    for column, text in zip(columns, cells, strict=True):
        if column is not None:
            name, read = column
            try:
                value = read(text)
            except _BadCell as error:
                raise _BadCell(f"{name}: {error}") from None
            if value is not _LEFT_OUT:
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


def cell_of(schema: Any, root: Mapping[str, Any], *, required: bool) -> Cell:
    """How a cell of a feature with this schema is read; _BadCell if CSV cannot hold what the schema allows."""
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
        raise _BadCell(f"may be {_members(sorted(kinds)) or 'anything'}: {_NOT_TAKEN}")

    def cell(text: str) -> Any:
        if text == "":
            if texts is not None and "" in texts:
                return text
            if nullable:
                return None
            if not required:
                return _LEFT_OUT
            if texts is None:
                return text
            raise _BadCell("the cell is empty, and the feature may be neither null nor missing")
        if text == "NA" and nullable and texts is not None and text not in texts:
            return None
        return read(text)

    return cell


def _allowed(schema: Any, root: Mapping[str, Any], depth: int) -> tuple[frozenset[str], list[Any] | None]:
    """The JSON types that a feature may have, and its values if the schema lists them."""
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
        # A part of which nothing is known allows anything.
        return (kinds if all(kinds for kinds, _ in parts) else frozenset()), None
    if kinds - {"null"}:
        return frozenset(), None  # some values are listed, others are not
    return kinds, listed


def _target(reference: Any, root: Mapping[str, Any]) -> Any:
    """What a reference into the schema itself (``#/$defs/NAME``) points at; None for any other."""
    at: Any = root
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return None
    for part in reference[2:].split("/"):
        at = at.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(at, Mapping) else None
    return at


def _one_of(members: list[Any]) -> tuple[Cell, frozenset[str]]:
    """Reads one of the values that a schema lists, and those of them that are text."""
    texts = frozenset(member for member in members if isinstance(member, str))
    others = [member for member in members if member is not None and not isinstance(member, str)]
    if not others:
        return str, texts
    if texts or not all(isinstance(member, int | float) for member in others):
        raise _BadCell(f"may be one of {members!r}, text and others: {_NOT_TAKEN}")
    plain = _plain(frozenset("boolean" if isinstance(member, bool) else "number" for member in others))

    def read(text: str) -> Any:
        value = plain(text)
        same = (each for each in others if each == value and isinstance(each, bool) == isinstance(value, bool))
        return next(same, value)

    return read, texts


def _plain(kinds: frozenset[str]) -> Cell:
    """Reads a number, a boolean, or what may be either."""

    def read(text: str) -> Any:
        bare = text.strip(" \t")
        if "boolean" in kinds:
            if bare.lower() in ("true", "false"):
                return bare.lower() == "true"
            if kinds == {"boolean"}:
                raise _BadCell(f"{_shown(text)} is neither true nor false")
        return _number(text, bare, whole="number" not in kinds)

    return read


def _number(text: str, bare: str, *, whole: bool) -> int | float:
    if not _NUMBER.fullmatch(bare):
        raise _BadCell(f"{_shown(text)} is not a number{_advice(bare)}")
    if _WHOLE.fullmatch(bare) and len(bare) <= 17 and abs(exact := int(bare)) <= _EXACT:
        return exact
    value = float(bare)
    if abs(value) == float("inf"):
        raise _BadCell(f"{_shown(text)} is too large for a number")
    if _WHOLE.fullmatch(bare) and int(value) != int(bare):
        raise _BadCell(f"{_shown(text)} has more digits than a number keeps: it would become {value!r}")
    if not whole:
        return value
    if not value.is_integer() or abs(value) > _EXACT:
        raise _BadCell(f"{_shown(text)} is not an integer" + (" that is exact" if value.is_integer() else ""))
    return int(value)


def _advice(bare: str) -> str:
    if bare.lower() in ("nan", "null", "none", "n/a", "na", "#n/a", "inf", "-inf", "infinity", "-", "?"):
        return ": leave the cell empty where there is none"
    if "," in bare:
        return ": write it with a decimal point and without separators"
    return ""


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
