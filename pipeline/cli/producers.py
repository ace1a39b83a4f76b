"""Producers' commands: submit, status, cancel."""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from pipeline.cli.console import BAD_OUTCOME, USAGE, AsJson, console, errors, fail, print_json, with_client
from pipeline.cli.result_file import CannotWrite, ResultFile
from pipeline.cli.row_file import BadFile
from pipeline.cli.rows import open_rows
from pipeline.cli.submitting import Sending
from pipeline.client.asynchronous import AsyncScoringClient
from pipeline.contracts.problems import Problem
from pipeline.contracts.status import Status
from pipeline.settings import read_settings


def submit(
    file: Annotated[
        Path, typer.Argument(help="FILE.csv or FILE.jsonl: one row of features each.", exists=True, dir_okay=False)
    ],
    model: Annotated[str, typer.Option(help="MODEL or MODEL@VERSION.")],
    out: Annotated[Path | None, typer.Option(help="Write one status document a line, in input order.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait until every request has ended.")] = False,
    ignore: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="A column of FILE.csv that is no feature.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Submit every row of a file, once all of them are found to be readable. Ctrl-C keeps what was accepted.

    With --wait: exit code 1 unless every request succeeded.
    """
    try:
        results = ResultFile(out, file) if out else None
        done = asyncio.run(_submit(file, model, results, ignore or [], wait=wait))
    except (BadFile, CannotWrite) as error:
        fail(str(error), USAGE)
    total = sum(done.states.values())
    if as_json:
        cut = {"rows": done.rows, "interrupted": True} if done.interrupted else {}
        print_json({"requests": total, "states": dict(done.states), **cut})
    else:
        counts = ", ".join(f"{number} {state}" for state, number in done.states.most_common())
        console.print(counts or "the file has no rows")
    done.fail_if_cut_short()
    if done.problem is not None:
        fail(f"refused: {done.problem.detail}", BAD_OUTCOME)
    if wait and done.states["succeeded"] != total:
        sys.exit(BAD_OUTCOME)


@dataclass
class _Submitted:
    """What has become of a file's rows so far."""

    rows: int
    results: ResultFile | None
    told: Callable[[int], None]
    """Called with how many more rows have been answered."""
    states: Counter[str] = field(default_factory=Counter)
    problem: Problem | None = None
    """The first reason for which a row was refused."""
    interrupted: int | None = None
    unknown: int = 0
    stopped_by: Problem | BadFile | None = None
    not_written: OSError | None = None
    unwritten: list[str] = field(default_factory=list)
    """Accepted requests whose documents could not be written."""
    where: Path | None = None
    """Where the documents are."""

    def write_answers(self, answers: Sequence[Status | Problem]) -> None:
        """Counts answers and writes them."""
        for answer in answers:
            if isinstance(answer, Problem):
                self.problem = self.problem or answer
                self.states["refused"] += 1
            else:
                self.states[answer["state"]] += 1
        if self.results is not None:
            self._write(answers)
        self.told(len(answers))

    def _write(self, answers: Sequence[Status | Problem]) -> None:
        assert self.results is not None
        if self.not_written is None:
            documents = (answer.document() if isinstance(answer, Problem) else answer for answer in answers)
            try:
                self.results.write("".join(json.dumps(document) + "\n" for document in documents))
            except OSError as error:
                self.not_written = error
            else:
                return
        self.unwritten += [answer["request_id"] for answer in answers if not isinstance(answer, Problem)]

    def end(self, sending: Sending) -> None:
        """Ends the results: in their place if complete, else beside it."""
        self.interrupted, self.unknown = sending.interrupted, sending.unknown
        if self.results is not None:
            whole = self.interrupted is None and self.stopped_by is None and self.not_written is None
            try:
                self.where = self.results.keep() if whole else self.results.leave()
            except OSError as error:
                self.not_written = self.not_written or error

    def fail_if_cut_short(self) -> None:
        """Exits, and says how far it came, unless all rows were submitted and their documents written."""
        written = f"; their documents are in {self.where}" if self.where and self.states else ""
        unknown = f"; {self.unknown} more were sent without an answer: they may have been accepted" * bool(self.unknown)
        far = f"{sum(self.states.values())} of {self.rows} rows were submitted{written}{unknown}"
        if self.not_written is not None:
            if self.unwritten:
                errors.print("accepted, and not written:", *self.unwritten, sep="\n", highlight=False)
            fail(f"the results cannot be written: {self.not_written.strerror}; {far}", BAD_OUTCOME)
        if isinstance(self.stopped_by, Problem):
            fail(f"{self.stopped_by.detail}; {far}", self.stopped_by.exit_code)
        if self.stopped_by is not None:
            fail(f"{self.stopped_by}; {far}", USAGE)
        if self.interrupted is not None:
            fail(f"interrupted: {far}", 128 + self.interrupted)


async def _submit(
    file: Path, model: str, results: ResultFile | None, ignored: Sequence[str], *, wait: bool
) -> _Submitted:
    """Submits a file's rows; BadFile, CannotWrite or a Problem before anything is written or sent."""
    async with AsyncScoringClient(settings=read_settings()) as client:
        schema = (await client.releases()).resolve(model).input_schema
        with open_rows(file, model, schema, ignored) as rows, _progress() as progress:
            checking = progress.add_task("checked", total=None)
            count = rows.check(lambda done: progress.update(checking, completed=done))
            progress.remove_task(checking)
            task = progress.add_task("scored" if wait else "submitted", total=count)
            if results is not None:
                results.open()
            submitted = _Submitted(count, results, lambda more: progress.advance(task, more))
            sending = Sending(
                rows, submitted.write_answers, wait=wait, enough=lambda: submitted.not_written is not None
            )
            try:
                await sending.run(client)
            except (Problem, BadFile) as error:
                submitted.stopped_by = error
            finally:
                submitted.end(sending)
            return submitted


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=errors, transient=True)


def status(request_id: str, as_json: AsJson = False) -> None:
    """Show how a request stands. Exit code 1 if it ended without success."""
    document = with_client(lambda client: client.get(request_id))
    if as_json:
        print_json(document)
    else:
        _show_status(document)
    if document["state"] in ("invalid", "dead", "expired", "cancelled"):
        sys.exit(BAD_OUTCOME)


def cancel(request_id: str, as_json: AsJson = False) -> None:
    """End a request that scoring has not begun. Exit code 5 if it has ended otherwise or is being scored."""
    document = with_client(lambda client: client.cancel(request_id))
    if as_json:
        print_json(document)
    else:
        _show_status(document)


def _show_status(document: Status) -> None:
    table = Table(show_header=False, box=None)
    for name, value in document.items():
        if value not in (None, [], {}):
            table.add_row(name, json.dumps(value) if isinstance(value, dict | list) else str(value))
    console.print(table)
