"""``scoreline publish``: releases every version of the model store that is not released yet, after proving it."""

import argparse
import asyncio
import sys
from dataclasses import asdict

from pipeline.cli.console import BAD_OUTCOME, UNREACHABLE, console, errors, fail, print_json, run
from pipeline.contracts.failures import StageFailure
from pipeline.ledger.rights import lacking_async
from pipeline.models.folder import ModelStore
from pipeline.releases.publishing import Published, publish_all
from pipeline.settings import Settings, settings
from pipeline.store.connection import connect_async
from pipeline.store.errors import store_problems
from tasks.proof import Prover


async def publish(settings: Settings) -> Published:
    """Publishes what is in the model store of the settings; ArtifactMissing if it cannot be read."""
    client = connect_async(settings)
    try:
        with store_problems():
            lacks = await lacking_async(client, settings, "publisher")
        if lacks:
            fail(lacks, UNREACHABLE)
        prover = Prover(settings.model_store, settings.start_limit_s)
        return await publish_all(client, ModelStore(settings.model_store), prover)
    finally:
        await client.aclose()


def main() -> None:
    """Publishes and prints what came of it. Exit code 1 if anything was refused, unless ``--lenient`` is given."""
    parser = argparse.ArgumentParser(prog="scoreline publish", description="Release what is new in the model store.")
    parser.add_argument("--json", action="store_true", help="print what was added and refused as JSON")
    parser.add_argument("--lenient", action="store_true", help="exit code 0 also if something was refused")
    options = parser.parse_args()
    try:
        published = asyncio.run(publish(settings()))
    except StageFailure as failure:
        fail(str(failure), BAD_OUTCOME)
    if options.json:
        print_json(asdict(published))
    else:
        console.print(f"released: {', '.join(published.added)}" if published.added else "nothing new to release")
    for refused in published.refused:
        errors.print(f"not released: {refused.place}: {refused.reason}", markup=False, highlight=False, soft_wrap=True)
    if published.refused and not options.lenient:
        sys.exit(BAD_OUTCOME)


if __name__ == "__main__":
    run(main)
