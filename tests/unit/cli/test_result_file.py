"""Files of results: whole in their place, or beside it."""

import stat
from pathlib import Path

import pytest

from pipeline.cli.result_file import CannotWrite, ResultFile, write_whole


def test_nothing_is_opened_before_it_is_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("before")
    ResultFile(out)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("out", "before")]


def test_a_file_is_replaced_at_the_end_and_keeps_its_mode(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("before")
    out.chmod(0o600)
    results = ResultFile(out)
    results.open()
    results.write("after")
    assert out.read_text() == "before"
    assert results.keep() == out
    assert (out.read_text(), stat.S_IMODE(out.stat().st_mode)) == ("after", 0o600)
    assert list(tmp_path.iterdir()) == [out]


def test_what_is_left_in_the_middle_stands_beside_what_was_there(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("before")
    places = []
    for _ in range(2):
        results = ResultFile(out)
        results.open()
        results.write("some")
        places.append(results.leave())
    assert places == [tmp_path / "out.partial", tmp_path / "out.partial.2"]
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        "out": "before", "out.partial": "some", "out.partial.2": "some",
    }  # fmt: skip


def test_what_is_left_takes_the_place_of_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    nothing = ResultFile(out)
    nothing.open()
    assert nothing.leave() is None
    assert list(tmp_path.iterdir()) == []
    results = ResultFile(out)
    results.open()
    results.write("some")
    assert results.leave() == out
    assert out.read_text() == "some"


def test_a_write_that_fails_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        """A file on a disk that is full after three bytes."""

        def __init__(self, real: object) -> None:
            self.real = real

        def write(self, data: bytes) -> int:
            if self.real.tell() >= 8:  # type: ignore[attr-defined]
                raise OSError(28, "No space left on device")
            return self.real.write(bytes(data[:3]))  # type: ignore[attr-defined,no-any-return]

        def __getattr__(self, name: str) -> object:
            return getattr(self.real, name)

    results = ResultFile(tmp_path / "out")
    results.open()
    results.write("one\n")
    monkeypatch.setattr(results, "_file", Full(results._file))
    with pytest.raises(OSError, match="No space"):
        results.write("two two two\n")
    assert results.leave() == tmp_path / "out"
    assert (tmp_path / "out").read_text() == "one\n"


def test_a_whole_file_or_a_reason(tmp_path: Path) -> None:
    write_whole(tmp_path / "out", "all")
    assert (tmp_path / "out").read_text() == "all"
    with pytest.raises(CannotWrite, match="there is no folder"):
        write_whole(tmp_path / "no" / "out", "all")
    with pytest.raises(CannotWrite, match="No space left on device"):
        write_whole(Path("/dev/full"), "all")
    with pytest.raises(CannotWrite, match="is a folder"):
        write_whole(tmp_path, "all")
