"""Files of results: complete in their place, or partial beside it; an earlier file is never half overwritten.

Results are written to ``NAME.partial``, which replaces ``NAME`` at the end. If the end never comes, the earlier file
is untouched, and what was written is beside it.
"""

import argparse
import os
import stat
from io import FileIO
from pathlib import Path


class CannotWrite(Exception):
    """Results cannot be written there. The message says what to do."""


class ResultFile:
    """One file of results: ``open`` it once everything else is checked, then ``keep`` or ``leave`` it."""

    def __init__(self, path: Path, *inputs: Path) -> None:
        """Checks that it can be written; opens nothing. ``inputs``: files that are read meanwhile. CannotWrite."""
        self.path = path
        self._file: FileIO | None = None
        self._written = 0
        self._beside = path
        try:
            found: os.stat_result | None = path.stat()
        except FileNotFoundError:
            found = None
        except OSError as error:
            raise CannotWrite(f"{path} cannot be written: {error.strerror}") from None
        self._mode = None if found is None else stat.S_IMODE(found.st_mode)
        self._direct = found is not None and not stat.S_ISREG(found.st_mode)
        """A device or a pipe: written directly, never replaced."""
        self._stood_empty = found is None or (not self._direct and found.st_size == 0)
        self._place = path if self._direct else Path(os.path.realpath(path))
        self._check(inputs)

    def _check(self, inputs: tuple[Path, ...]) -> None:
        if self._place.is_dir():
            raise CannotWrite(f"{self.path} is a folder: name a file")
        if not self._place.parent.is_dir():
            raise CannotWrite(f"{self.path} cannot be written: there is no folder {self._place.parent}")
        if self._mode is not None and any(self._place.samefile(each) for each in inputs):
            raise CannotWrite(f"{self.path} is the file that is read: name another one for the results")
        if not os.access(self._place if self._mode is not None else self._place.parent, os.W_OK):
            raise CannotWrite(f"{self.path} cannot be written: permission denied")

    def open(self) -> None:
        """Opens the partial file; CannotWrite. An earlier ``NAME.partial`` stays as it is."""
        try:
            if self._direct:
                self._file = self.path.open("wb", buffering=0)
                return
            number = 1
            while self._file is None:
                more = "" if number == 1 else f".{number}"
                self._beside = self._place.with_name(f"{self._place.name}.partial{more}")
                try:
                    self._file = self._beside.open("xb", buffering=0)
                except FileExistsError:
                    number += 1
            if self._mode is not None:
                self._beside.chmod(self._mode)
        except OSError as error:
            raise CannotWrite(f"{self.path} cannot be written: {error.strerror}") from None

    def write(self, text: str) -> None:
        """Writes text, all of it or none; OSError."""
        assert self._file is not None, "open it first"
        content = text.encode()
        left = memoryview(content)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError:
            if not self._direct:
                self._file.truncate(self._written)
                self._file.seek(self._written)
            raise
        self._written += len(content)

    def keep(self) -> Path:
        """Ends a complete file and puts it in its place; returns where it is. OSError."""
        assert self._file is not None, "open it first"
        if not self._direct:
            os.fsync(self._file.fileno())
        self._file.close()
        if not self._direct:
            self._beside.replace(self._place)
        return self.path

    def leave(self) -> Path | None:
        """Ends an incomplete file; returns where it is: in its place if that was empty, else beside it. OSError."""
        assert self._file is not None, "open it first"
        if self._written and self._stood_empty:
            return self.keep()
        self._file.close()
        if self._direct or self._written:
            return self._beside
        self._beside.unlink()
        return None


def write_whole(path: Path, text: str) -> None:
    """Writes a file, completely or not at all; CannotWrite."""
    file = ResultFile(path)
    file.open()
    try:
        file.write(text)
        file.keep()
    except OSError as error:
        raise CannotWrite(f"{path} cannot be written: {error.strerror}") from None


def result_path(text: str) -> Path:
    """Checks a command line's file for results before the work begins (an argparse type)."""
    try:
        ResultFile(Path(text))
    except CannotWrite as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return Path(text)
