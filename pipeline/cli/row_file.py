"""A producer's file of rows: read as UTF-8 text, line by line, and refused with the cause and the line."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NoReturn, Self

LONGEST_LINE = 16 << 20
"""Characters of a line. A longer line is not a row: the file has other line ends, or none."""
SHOWN = 5
"""How many bad rows a refusal names."""


class BadFile(Exception):
    """The file cannot be read as it is meant. The message names the lines, and says what to do."""


class BadRow(Exception):
    """One row cannot be read; the rows after it can."""


class RowFile(ABC):
    """A file's rows. ``check`` reads all of them, and each iteration reads them again; one row is held at a time."""

    def __init__(self, path: Path, file: BinaryIO, model: str) -> None:
        self.path = path
        self.model = model
        # Undecodable bytes become lone surrogates, which UTF-8 never has: so the line that holds one is known.
        self._text = TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        self.line = 0
        """The number of the line read last, from 1."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._text.close()

    def check(self, report: Callable[[int], None] = lambda _: None) -> int:
        """Reads every row and returns the count; BadFile names the first bad rows. ``report`` gets interim counts."""
        count, wrong, bad = 0, 0, []
        for row in self._rows():
            count += 1
            if isinstance(row, BadRow):
                wrong += 1
                if wrong <= SHOWN:
                    bad.append(str(row))
            if count % 1000 == 0:
                report(count)
        if wrong:
            more = f"\nand {wrong - SHOWN} more rows" if wrong > SHOWN else ""
            raise BadFile("\n".join(bad) + more + "\nno row was sent")
        return count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yields each row as a request; BadFile if the file has changed since it was checked."""
        for row in self._rows():
            if isinstance(row, BadRow):
                raise BadFile(f"{row}\nthe file was changed while it was read")
            yield row

    @abstractmethod
    def _rows(self) -> Iterator[dict[str, Any] | BadRow]:
        """Yields each row's request, or a BadRow that says what is wrong with it; BadFile if reading cannot go on."""

    def lines(self) -> Iterator[str]:
        """Yields the lines with their line ends; BadFile."""
        try:
            self._text.seek(0)
            self.line = 0
            while line := self._text.readline(LONGEST_LINE):
                self.line += 1
                self._check_line(line)
                yield line
        except OSError as error:
            raise BadFile(f"{self.path} cannot be read: {error.strerror}") from None

    def _check_line(self, line: str) -> None:
        if not line.isascii() and (found := re.search("[\udc80-\udcff]", line)):
            byte = ord(found[0]) - 0xDC00
            if self.line == 1 and line.startswith(("\udcff\udcfe", "\udcfe\udcff")):
                self.refuse("the file is UTF-16, not UTF-8: save it as UTF-8 (in Excel: CSV UTF-8)")
            self.refuse(f"byte 0x{byte:02x} is not UTF-8: save the file as UTF-8 (in Excel: CSV UTF-8)")
        if "\0" in line:
            self.refuse("a NUL byte: this is not text, or the file is damaged")
        if len(line) == LONGEST_LINE:
            self.refuse(f"longer than {LONGEST_LINE} characters")

    def where(self, line: int | None = None) -> str:
        """Returns the file and the line (default: the one read last), for a message."""
        return f"{self.path}, line {line or self.line}"

    def refuse(self, reason: str, line: int | None = None) -> NoReturn:
        """Raises BadFile for a line (default: the one read last)."""
        raise BadFile(f"{self.where(line)}: {reason}")


def quoted(names: Collection[str]) -> str:
    """Returns names for a message."""
    return ", ".join(repr(name) for name in names)
