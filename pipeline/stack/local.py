"""The local stack as one object: start it, wait until it is ready, read where it listens, drain it."""

import asyncio
import fcntl
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import aiohttp

from pipeline.contracts.problems import Problem
from pipeline.contracts.stages import Stage
from pipeline.ledger.operators.stats import read_overview
from pipeline.models.folder import Refused
from pipeline.settings import Durability, Settings
from pipeline.stack import StackError
from pipeline.stack.models import check_models, release, with_chaos_models
from pipeline.stack.programs import choose_ports, names_of, programs
from pipeline.stack.supervision import Supervision
from pipeline.store.connection import AsyncClient, connect_async
from pipeline.store.errors import StoreError

START_S = 90.0


class LocalStack:
    """All services on this machine. ``with LocalStack(...) as stack`` starts it and drains it."""

    def __init__(
        self,
        settings: Settings,
        *,
        data_dir: Path | None = None,
        port: int | None = None,
        flower_port: int | None = None,
        scoring_workers: int = 1,
        other_workers: int = 1,
        sweepers: int = 1,
        durability: Durability | None = None,
        chaos_model: bool = False,
        environment: Mapping[str, str] | None = None,
        environments: Mapping[str, Mapping[str, str]] | None = None,
        store_options: Sequence[str] = (),
    ) -> None:
        """Chooses ports and commands; starts nothing. StackError if a port or the data folder is taken.

        ``data_dir``: None for a temporary folder. ``environment`` is added to the environment of all programs,
        ``environments`` to that of the program named, ``store_options`` to the server's command line.
        """
        settings.for_worker()
        check_models(settings.model_store, chaos_model=chaos_model)
        self.durability: Durability = durability or settings.durability
        self.refused: list[Refused] = []
        """What is in the model store and was not released, and why."""
        self._temporary = data_dir is None
        self.data_dir = Path(tempfile.mkdtemp(prefix="scoreline-")) if data_dir is None else data_dir.resolve()
        self._lock: IO[str] | None = None
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            self._lock = self._locked()
            try:
                watched = sweepers + scoring_workers + 2 * other_workers
                ports = choose_ports(api=port, flower=flower_port, health=watched)
            except OSError as error:
                raise StackError(f"a port is taken ({error}): choose another, or none to get a free one") from error
        except BaseException:
            self._clean_up()
            raise
        self.api_url = f"http://127.0.0.1:{ports.api}"
        self.flower_url = f"http://127.0.0.1:{ports.flower}"
        self.store_url = f"redis://127.0.0.1:{ports.store}/0"
        self.flower_user, self.flower_password = "scoreline", secrets.token_urlsafe(12)
        model_store = settings.model_store
        if chaos_model:
            model_store = with_chaos_models(model_store, self.data_dir / "models")
        self.settings = settings.model_copy(
            update={"store_url": self.store_url, "durability": self.durability, "model_store": model_store}
        )
        self._copies = {stage: scoring_workers if stage is Stage.SCORING else other_workers for stage in Stage}
        every = programs(
            ports,
            self.data_dir,
            self.durability,
            scoring_workers=scoring_workers,
            other_workers=other_workers,
            sweepers=sweepers,
            store_options=store_options,
        )
        self._models_environment = {
            "SCORELINE_STORE_URL": self.store_url,
            "SCORELINE_MODEL_STORE": str(model_store),
            "SCORELINE_CHAOS_MODEL": str(chaos_model),
        }
        self._supervision = Supervision(
            [replace(program, environment=(environments or {}).get(program.name, {})) for program in every],
            self.data_dir,
            {
                **self._models_environment,
                "SCORELINE_DURABILITY": self.durability,
                "SCORELINE_EXPECTED_SCORING_WORKERS": str(scoring_workers),
                "SCORELINE_TORCH_THREADS": "1",  # everything is on this machine
                "FLOWER_BASIC_AUTH": f"{self.flower_user}:{self.flower_password}",
                **(environment or {}),
            },
        )

    def _locked(self) -> IO[str]:
        lock = (self.data_dir / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise StackError(f"{self.data_dir} is in use by another stack: choose another --data-dir") from error
        return lock

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, report_wait: Callable[[str], None] = lambda _: None) -> None:
        """Starts everything and waits until it can take work; StackError if it cannot.

        ``report_wait`` is called with a name for each thing that is waited for.
        """
        self._supervision.start()
        asyncio.run(self._become_ready(report_wait))

    async def _become_ready(self, report_wait: Callable[[str], None]) -> None:
        until = time.monotonic() + START_S
        store = connect_async(self.settings)
        try:
            report_wait("the store")
            await self._until(until, "the store does not answer", "store", store.ping)
            report_wait("the models")
            self.refused = await release(store, self.settings.model_store, self._models_environment)
            await self._serve(store, until, report_wait)
        finally:
            await store.aclose()

    async def _serve(self, store: AsyncClient, until: float, report_wait: Callable[[str], None]) -> None:
        """Waits until requests are served, then starts the rest, and waits for that too."""
        report_wait("the API")
        await self._until(until, "the API is not ready", "api", partial(_answers, f"{self.api_url}/readyz"))
        for stage, copies in self._copies.items():
            report_wait(f"a worker for {stage}")
            first = names_of(stage, copies)[0]
            await self._until(until, f"no worker for {stage}", first, partial(self._serves, store, stage, 1))
        self._supervision.start_rest()
        for stage, copies in self._copies.items():
            report_wait(f"all workers for {stage}")
            last = names_of(stage, copies)[-1]
            missing = f"fewer than {copies} workers for {stage}"
            await self._until(until, missing, last, partial(self._serves, store, stage, copies))
        report_wait("Flower")
        health = f"{self.flower_url}/healthcheck"
        await self._until(until, "Flower does not answer", "flower", partial(_answers, health))

    async def _serves(self, store: AsyncClient, stage: Stage, copies: int) -> bool:
        workers = (await read_overview(store, self.settings))["workers"]
        return sum(worker["stage"] == stage and worker["state"] == "live" for worker in workers) >= copies

    async def _until(self, until: float, failure: str, program: str, check: Callable[[], Any]) -> None:
        while True:
            try:
                if await check():
                    return
            except (aiohttp.ClientError, Problem, *StoreError) as error:
                failure_now = f"{failure}: {error}"
            else:
                failure_now = failure
            fatal = [name for name, info in self._supervision.states().items() if info["statename"] == "FATAL"]
            if fatal or not self._supervision.alive() or time.monotonic() > until:
                name = fatal[0] if fatal else program
                raise StackError(f"{failure_now}\nlast lines of {name}:\n{self._supervision.log_tail(name)}")
            await asyncio.sleep(0.05)

    def states(self) -> dict[str, dict[str, Any]]:
        """Returns what the supervisor knows of each program, by name: ``statename``, ``pid``, and more."""
        return self._supervision.states()

    def root_pids(self) -> list[int]:
        """Returns the process whose tree is the whole stack."""
        return self._supervision.root_pids()

    def log(self, program: str) -> Path:
        """Returns where a program's output goes."""
        return self._supervision.log(program)

    def stop_services(self) -> None:
        """Sends SIGTERM to every service at once and to the store last; returns when all have drained."""
        self._supervision.stop_groups()

    def start_services(self) -> None:
        """Starts again what ``stop_services`` has stopped, and waits until it all runs; StackError if it does not."""
        self._supervision.start_serving()
        asyncio.run(self._serve_again())

    async def _serve_again(self) -> None:
        store = connect_async(self.settings)
        try:
            await self._serve(store, time.monotonic() + START_S, lambda _: None)
        finally:
            await store.aclose()

    def start_service(self, name: str) -> None:
        """Starts one service that has exited for good."""
        self._supervision.start_program(name)

    def alive(self) -> bool:
        """Whether the supervisor runs."""
        return self._supervision.alive()

    def ready_document(self) -> dict[str, Any]:
        """Returns where everything listens and runs."""
        return {
            "api_url": self.api_url,
            "flower_url": self.flower_url,
            "flower_user": self.flower_user,
            "flower_password": self.flower_password,
            "store_url": self.store_url,
            "data_dir": str(self.data_dir),
            "pids": self._supervision.pids(),
        }

    def write_ready_file(self, path: Path) -> None:
        """Writes the ready document, whole or not at all, readable by its owner only."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(self.ready_document(), file, indent=1)
        temporary.replace(path)

    def stop(self) -> None:
        """Drains and stops everything; deletes a temporary data folder."""
        self._supervision.stop()
        self._clean_up()

    def _clean_up(self) -> None:
        if self._lock is not None:
            self._lock.close()
        if self._temporary:
            shutil.rmtree(self.data_dir, ignore_errors=True)


async def _answers(url: str) -> bool:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(2)) as http, http.get(url) as answer:
        return answer.status == 200
