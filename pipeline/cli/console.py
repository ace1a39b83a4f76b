"""What the commands share: one console, JSON beside tables, problems and their exit codes."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console

from pipeline.cli.extras import MissingExtra
from pipeline.client.asynchronous import AsyncScoringClient
from pipeline.contracts.failures import StageFailure
from pipeline.contracts.problems import Problem
from pipeline.contracts.releases import VersionConflict
from pipeline.settings import SettingsError, read_settings
from pipeline.stack import StackError

Result = TypeVar("Result")
console = Console()
errors = Console(stderr=True)

BAD_OUTCOME = 1
USAGE = 2
UNREACHABLE = 3
CONFLICT = 5

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def run(cli: Callable[[], Any]) -> None:
    """Run the command line; a problem becomes one line on standard error and its exit code."""
    try:
        cli()
    except Problem as problem:
        fail(problem.detail, problem.exit_code)
    except (SettingsError, MissingExtra) as error:
        fail(str(error), USAGE)
    except VersionConflict as error:
        fail(str(error), CONFLICT)
    except (StackError, StageFailure) as error:
        fail(str(error), BAD_OUTCOME)
    except OSError as error:
        fail(": ".join(filter(None, (error.filename, error.strerror))) or str(error), BAD_OUTCOME)
    except KeyboardInterrupt:
        fail("interrupted", 130)


def fail(message: str, code: int) -> NoReturn:
    """Say what is wrong and exit."""
    errors.print(f"scoreline: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)


def print_json(document: Any) -> None:
    """A document on standard output, for programs."""
    print(json.dumps(document, indent=1))


def with_client(use: Callable[[AsyncScoringClient], Awaitable[Result]]) -> Result:
    """Run ``use`` with a client of the store that the settings name."""

    async def call() -> Result:
        async with AsyncScoringClient(settings=read_settings(), retry_for_s=0) as client:
            return await use(client)

    return asyncio.run(call())
