"""A store with models of its own, and a worker for each stage over it, started and stopped as a measurement goes on."""

import asyncio
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

from bench.processes import start_store
from pipeline.contracts.stages import Stage
from pipeline.models.folder import ModelStore
from pipeline.releases.publishing import publish_all
from pipeline.service.entry_points import EntryPoint, command
from pipeline.settings import Settings, read_settings
from pipeline.store.connection import connect_async


async def publish_models(settings: Settings) -> None:
    """Release what is in the model store."""
    client = connect_async(settings)
    await publish_all(client, ModelStore(settings.model_store))
    await client.aclose()


class Services:
    """``with Services(models, more) as services`` has the store; ``start`` and ``stop`` are about everything else."""

    def __init__(self, models: Path, more: Mapping[str, str]) -> None:
        """``more``: settings on top of those of this process's environment."""
        self._folder = tempfile.TemporaryDirectory(prefix="scoreline-bench-")
        self._server, url = start_store(Path(self._folder.name), "process")
        self._log = (Path(self._folder.name) / "services.log").open("wb")
        given = {"SCORELINE_STORE_URL": url, "SCORELINE_MODEL_STORE": str(models), "SCORELINE_TORCH_THREADS": "1"}
        self._environment = {**os.environ, **given, **more}
        self._running: list[subprocess.Popen[bytes]] = []
        self.settings = read_settings(self._environment)
        self.store = redis.Redis.from_url(url)
        asyncio.run(publish_models(self.settings))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._server.terminate()
        self._server.wait()
        self._folder.cleanup()

    def start(self) -> None:
        """A worker for each stage, and a sweeper; they may take seconds until they serve."""
        for start in (command(EntryPoint.SWEEPER), *(command(EntryPoint.WORKER, stage) for stage in Stage)):
            self._running.append(subprocess.Popen(start, env=self._environment, stdout=self._log, stderr=self._log))

    def stop(self) -> None:
        """Drain them: what is claimed is settled first."""
        for process in self._running:
            process.terminate()
        for process in self._running:
            process.wait()
        self._running = []

    def memory(self) -> int:
        """Bytes that the store uses."""
        return int(self.store.info("memory")["used_memory"])
