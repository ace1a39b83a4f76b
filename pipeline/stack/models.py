"""The models of a local stack: which it has, and their release before its services start."""

import asyncio
import contextlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.contracts.failures import ArtifactMissing
from pipeline.ledger.releases import read_releases
from pipeline.models.folder import ModelStore, Refused
from pipeline.releases.publishing import publish_all
from pipeline.service.entry_points import EntryPoint, command
from pipeline.settings import REPOSITORY
from pipeline.stack import StackError
from pipeline.stack.shipped import SHIPPED
from pipeline.store.connection import AsyncClient

CHAOS_MODELS = REPOSITORY / "chaos" / "models"


def check_models(folder: Path, *, chaos_model: bool) -> None:
    """Raises StackError if no model could be released: the API would be waited for in vain."""
    if chaos_model and not CHAOS_MODELS.is_dir():
        raise StackError("--chaos-model: this model is part of the source repository: use it in a clone")
    try:
        artifacts, refused = ModelStore(folder).scan()
    except ArtifactMissing as error:
        raise StackError(str(error)) from error
    if not artifacts and not chaos_model:
        raise _no_model(folder, refused)


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
            refused = (await publish_all(store, models)).refused
        else:
            refused = await _release_proved(environment)
    except ArtifactMissing as error:
        raise StackError(str(error)) from error
    if not (await read_releases(store)).current:
        raise _no_model(root, refused)
    return refused


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


def _no_model(folder: Path, refused: Sequence[Refused]) -> StackError:
    found = "".join(f"\n  {each.place}: {each.reason}" for each in refused)
    return StackError(
        f"the model store {folder} holds no model that can be served: "
        f"set SCORELINE_MODEL_STORE to a folder that does{found}"
    )
