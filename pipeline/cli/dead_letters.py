"""``scoreline dead``: lists, shows, replays and purges requests that were given up."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import typer
from rich.table import Table

from pipeline.cli.console import USAGE, AsJson, console, fail, print_json
from pipeline.contracts.ids import parse_id, to_text
from pipeline.ledger.letters import Letter
from pipeline.ledger.operators.dead_letters import DeadLetters
from pipeline.settings import read_settings
from pipeline.store.connection import connect_async

app = typer.Typer(no_args_is_help=True)
Result = TypeVar("Result")

Model = Annotated[str | None, typer.Option(help="Only this model.")]
StageName = Annotated[str | None, typer.Option("--stage", help="Only this stage.")]
Category = Annotated[str | None, typer.Option(help="Only this category.")]


def _with_letters(use: Callable[[DeadLetters], Awaitable[Result]]) -> Result:
    async def call() -> Result:
        client = connect_async(read_settings())
        try:
            return await use(DeadLetters(client))
        finally:
            await client.aclose()

    return asyncio.run(call())


async def _all(letters: DeadLetters, **chosen: Any) -> list[Letter]:
    found: list[Letter] = []
    cursor = None
    while True:
        page, cursor = await letters.page(cursor=cursor, limit=500, **chosen)
        found += page
        if cursor is None:
            return found


@app.command("list")
def list_letters(
    model: Model = None,
    stage: StageName = None,
    category: Category = None,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50,
    cursor: Annotated[str | None, typer.Option(help="Go on after this id.")] = None,
    as_json: AsJson = False,
) -> None:
    """List dead letters, newest first."""
    page, following = _with_letters(
        lambda letters: letters.page(model=model, stage=stage, category=category, cursor=cursor, limit=limit)
    )
    if as_json:
        print_json({"items": [letter.document() for letter in page], "next": following})
        return
    if not page:
        console.print("no dead letters")
        return
    table = Table("id", "died", "model", "stage", "category", "cause", "last error")
    for letter in page:
        shown = letter.document()
        table.add_row(
            shown["id"], shown["died_at"], f"{shown['model']}@{shown['model_version']}", shown["stage"],
            shown["category"], shown["fingerprint"], shown["message"],
        )  # fmt: skip
    console.print(table)
    if following:
        console.print(f"more: --cursor {following}")


@app.command()
def show(letter_id: str) -> None:
    """Show one dead letter, whole, as JSON."""
    print_json(_with_letters(lambda letters: letters.get(parse_id(letter_id))).document())


@app.command()
def replay(
    letter_ids: Annotated[list[str] | None, typer.Argument(help="Which ones.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that the options choose.")] = False,
    model: Model = None,
    stage: StageName = None,
    category: Category = None,
    as_json: AsJson = False,
) -> None:
    """Run dead requests again, each from the stage that died."""

    async def run(letters: DeadLetters) -> list[bytes]:
        chosen = await _chosen(letters, letter_ids, everything, model=model, stage=stage, category=category)
        for request_id in chosen:
            await letters.replay(request_id)
        return chosen

    _report("replayed", _with_letters(run), as_json)


@app.command()
def purge(
    letter_ids: Annotated[list[str] | None, typer.Argument(help="Which ones.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that the options choose.")] = False,
    model: Model = None,
    stage: StageName = None,
    category: Category = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete dead letters for good."""
    if not yes:
        typer.confirm("Delete these dead letters for good?", abort=True)

    async def run(letters: DeadLetters) -> list[bytes]:
        chosen = await _chosen(letters, letter_ids, everything, model=model, stage=stage, category=category)
        for request_id in chosen:
            await letters.get(request_id)  # a mistyped id deletes nothing
        await letters.purge(chosen)
        return chosen

    _report("purged", _with_letters(run), as_json)


async def _chosen(letters: DeadLetters, ids: list[str] | None, everything: bool, **options: Any) -> list[bytes]:
    if bool(ids) == everything:
        fail("name the letters, or say --all", USAGE)
    if ids:
        return [parse_id(text) for text in ids]
    return [letter.id for letter in await _all(letters, **options)]


def _report(what: str, ids: list[bytes], as_json: bool) -> None:
    if as_json:
        print_json({what: [to_text(request_id) for request_id in ids]})
    else:
        console.print(f"{what}: {len(ids)}")
