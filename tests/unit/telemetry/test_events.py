"""Events: what an adapter hears, and how they read as lines of a log."""

import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.telemetry.event import Event, add_adapter
from pipeline.telemetry.events.requests import RequestDead
from pipeline.telemetry.events.stages import CacheNotFilled
from pipeline.telemetry.events.workers import ChildDied
from pipeline.telemetry.logs import LONGEST_LINE, configure_logging
from tests.support.emitted import emitted

Lines = Callable[[], list[dict]]


@pytest.fixture
def lines(tmp_path: Path) -> Iterator[Lines]:
    """The lines that this process has logged since the test began."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    configure_logging("test", descriptor=descriptor)
    yield lambda: [json.loads(line) for line in path.read_text().splitlines()]
    root.handlers, root.level = handlers, level
    logging.captureWarnings(False)
    os.close(descriptor)


def test_an_event_is_a_line_with_its_fields(lines: Lines) -> None:
    ChildDied(pid=7, signal="SIGKILL").emit()
    (line,) = lines()
    assert line.pop("timestamp").endswith("Z")
    expected = {"event": "child_died", "level": "warning", "service": "test", "pid": 7, "signal": "SIGKILL"}
    assert line == expected


def test_an_error_brings_its_traceback(lines: Lines) -> None:
    try:
        raise RuntimeError("boom")
    except RuntimeError as error:
        CacheNotFilled(model="m@1").emit(error)
    (line,) = lines()
    assert line["exception"].splitlines()[-1] == "RuntimeError: boom"
    assert "test_an_error_brings_its_traceback" in line["exception"]


def test_what_libraries_log_is_one_kind_of_event(lines: Lines) -> None:
    logging.getLogger("celery.worker").info("Task %s received", "scoring.run")
    (line,) = lines()
    assert (line["event"], line["level"], line["logger"]) == ("library_message", "info", "celery.worker")
    assert line["message"] == "Task scoring.run received"


@pytest.mark.parametrize("letter", ["x", "\n", '"', "\N{GRINNING FACE}", "\ud800"])
def test_a_line_is_never_longer_than_one_write_to_a_pipe(lines: Lines, tmp_path: Path, letter: str) -> None:
    """Or the lines of several processes could mix."""
    for count in (*range(100, 5000, 450), 100_000):
        ChildDied(pid=1, signal=f"begins {count * letter} ends").emit()
    found = (tmp_path / "log").read_bytes().splitlines(keepends=True)
    assert len(found) == 12
    assert max(map(len, found)) <= LONGEST_LINE
    for line in lines():
        assert line["signal"].startswith("begins ")
        assert line["signal"].endswith(" ends")
    assert len(found[-1]) > LONGEST_LINE / 4, "no more is left out than has to be"


def test_a_log_that_cannot_be_written_ends_nothing(lines: Lines) -> None:
    configure_logging("test", descriptor=os.open("/dev/full", os.O_WRONLY))
    ChildDied(pid=1, signal="").emit()


def test_an_adapter_that_fails_keeps_no_other_from_hearing() -> None:
    def fails(event: Event, error: BaseException | None) -> None:
        raise RuntimeError("boom")

    remove = add_adapter(fails)
    try:
        with emitted() as events:
            ChildDied(pid=1, signal="").emit()
    finally:
        remove()
    assert events == [ChildDied(pid=1, signal="")]


def test_events_are_frozen_and_know_their_fields() -> None:
    event = RequestDead(request_id="r", model="m@1", stage="scoring", attempt=3, category="numeric", error="NaN")
    with pytest.raises(AttributeError):
        event.attempt = 4  # type: ignore[misc]
    with pytest.raises(TypeError):
        RequestDead(request_id="r", attempts=3)  # type: ignore[call-arg]
    assert str(event).startswith("request_dead request_id='r' model='m@1'")


def test_a_process_without_our_logs_leaves_events_to_pythons_logging(caplog: pytest.LogCaptureFixture) -> None:
    """As when a producer uses the client in a program of its own."""
    with caplog.at_level(logging.INFO, logger="scoreline"):
        ChildDied(pid=7, signal="SIGKILL").emit()
    assert [(record.name, record.levelname, record.getMessage()) for record in caplog.records] == [
        ("scoreline", "WARNING", "child_died pid=7 signal='SIGKILL'")
    ]
