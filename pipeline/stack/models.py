"""The models of a local stack: which it has, and their release before its services start."""

import asyncio
import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from pipeline.contracts.failures import ArtifactMissing
from pipeline.models.folder import ModelStore, Refused
from pipeline.releases.publishing import publish_all
from pipeline.service.entry_points import EntryPoint, command
from pipeline.settings import REPOSITORY
from pipeline.stack import StackError
from pipeline.stack.shipped import SHIPPED
from pipeline.store.connection import AsyncClient

CHAOS_MODELS = REPOSITORY / "chaos" / "models"


def with_chaos_models(models: Path, folder: Path) -> Path:
    """Fills ``folder`` with the artifacts of a model store and with the models that fail on demand; returns it."""
    for source in (models, CHAOS_MODELS):
        # What cannot be copied (a link that leads nowhere, a pipe) is missing, and named when models are released.
        with contextlib.suppress(shutil.Error):
            shutil.copytree(source, folder, dirs_exist_ok=True)
    return folder


async def release(store: AsyncClient, root: Path, environment: Mapping[str, str]) -> list[Refused]:
    """Releases the models in ``root``; returns those that were refused, and why. StackError if none can be.

    Those that do not ship with this code are proved first, in a process that has torch and ``environment``.
    """
    models = ModelStore(root)
    try:
        if all(artifact.digest in SHIPPED for artifact in models.all()):
            return list((await publish_all(store, models)).refused)
        return await _release_proved(environment)
    except ArtifactMissing as error:
        raise StackError(str(error)) from error


async def _release_proved(environment: Mapping[str, str]) -> list[Refused]:
    process = await asyncio.create_subprocess_exec(
        *command(EntryPoint.PUBLISH, "--json", "--lenient"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
    )
    try:
        printed, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode != 0:
        raise StackError(f"the models cannot be released: {said.decode(errors='replace').strip()}")
    return [Refused(**each) for each in json.loads(printed)["refused"]]
