"""All commands, put together."""

import importlib.metadata
from typing import Annotated

import typer

from pipeline.cli import dead_letters as letters
from pipeline.cli import operators, producers, services
from pipeline.cli.demo import demo
from pipeline.cli.extras import DISTRIBUTION
from pipeline.cli.load import load

cli = typer.Typer(
    name="scoreline",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"{DISTRIBUTION} {importlib.metadata.version(DISTRIBUTION)}")
        raise typer.Exit


@cli.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Fault-tolerant, asynchronous model scoring on queues: every accepted request ends exactly once."""


cli.command()(services.up)
cli.command()(demo)
cli.command()(producers.submit)
cli.command()(producers.status)
cli.command()(producers.cancel)
cli.command()(operators.stats)
cli.command()(operators.workers)
cli.command()(operators.models)
cli.command()(operators.devices)
cli.add_typer(letters.app, name="dead", help="Dead letters: requests that were given up.")
cli.command()(services.worker)
cli.command()(services.sweeper)
cli.command()(services.api)
cli.command()(services.publish)
cli.command()(load)
cli.command(name="train-demo")(services.train_demo)
cli.command(name="import-minilm")(services.import_minilm)
cli.command()(services.doctor)
cli.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)(services.bench)
cli.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)(services.chaos)
