"""Commands of producers: submit files, ask how requests stand, which models there are, what the system does."""

import csv
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from pipeline.cli.console import BAD_OUTCOME, USAGE, AsJson, console, errors, fail, print_json, with_client
from pipeline.client import ScoringClient
from pipeline.contracts.problems import Problem
from pipeline.contracts.status import Status
from pipeline.settings import read_settings


def submit(
    file: Annotated[Path, typer.Argument(help="FILE.csv or FILE.jsonl: one row of features each.", exists=True)],
    model: Annotated[str, typer.Option(help="MODEL or MODEL@VERSION.")],
    out: Annotated[Path | None, typer.Option(help="Write one status document a line, in input order.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait until every request has ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Submit every row of a file. With --wait: exit code 1 unless every request succeeded."""
    rows = count_rows(file)
    states: Counter[str] = Counter()
    first_problem: Problem | None = None
    sink: IO[str] | None = out.open("w") if out else None
    try:
        with ScoringClient(settings=read_settings()) as client, _progress() as progress:
            schema = _input_schema(client, model)
            task = progress.add_task("scored" if wait else "submitted", total=rows)
            requests = ({"model": model, "features": features} for features in read_rows(file, schema))
            send = client.score_many if wait else client.submit_many
            for answer in send(requests):
                if isinstance(answer, Problem):
                    first_problem = first_problem or answer
                    states["refused"] += 1
                else:
                    states[answer["state"]] += 1
                if sink:
                    document = answer.document() if isinstance(answer, Problem) else answer
                    sink.write(json.dumps(document) + "\n")
                progress.advance(task)
    finally:
        if sink:
            sink.close()
    total = sum(states.values())
    if as_json:
        print_json({"requests": total, "states": dict(states)})
    else:
        console.print(", ".join(f"{number} {state}" for state, number in states.most_common()) or "the file is empty")
    if first_problem is not None:
        fail(f"refused: {first_problem.detail}", BAD_OUTCOME)
    if wait and states["succeeded"] != total:
        sys.exit(BAD_OUTCOME)


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=errors, transient=True)


def _input_schema(client: ScoringClient, model: str) -> dict[str, Any]:
    return client.releases().resolve(model).input_schema


def count_rows(file: Path) -> int:
    """How many requests a file holds; a usage error for another kind of file."""
    if file.suffix not in (".csv", ".jsonl"):
        fail(f"{file}: expected a file that ends in .csv or .jsonl", USAGE)
    with file.open("rb") as lines:
        count = sum(1 for line in lines if line.strip())
    return count - (file.suffix == ".csv" and count > 0)


def read_rows(file: Path, schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The features of each row. CSV cells become what the model's schema says: numbers, or null for an empty cell."""
    with file.open(newline="") as lines:
        if file.suffix == ".jsonl":
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _json_row(file, number, line)
            return
        properties = schema.get("properties", {})
        for row in csv.DictReader(lines):
            yield {name: _cell(text, properties.get(name, {})) for name, text in row.items() if name in properties}


def _json_row(file: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        fail(f"{file}, line {number}: not JSON: {error}", USAGE)
    if not isinstance(row, dict):
        fail(f"{file}, line {number}: expected an object of features", USAGE)
    return row.get("features", row)


def _cell(text: str | None, schema: dict[str, Any]) -> Any:
    if text in (None, "", "NA"):
        return None
    kinds = schema.get("type", ())
    if "number" in kinds or "integer" in kinds:
        try:
            return float(text)
        except ValueError:
            return text  # preprocess says what is wrong with it, naming the feature
    return text


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
