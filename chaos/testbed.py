"""The stack that faults are injected into: a network and a store user for each process, and clocks that can be set."""

import importlib.util
import json
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path
from urllib.parse import urlsplit

from bench.processes import Running
from chaos.proxy import ProxyProcess
from chaos.rights import PASSWORD, write_users
from pipeline.contracts.stages import Stage
from pipeline.settings import Durability, read_settings
from pipeline.stack.local import LocalStack
from pipeline.stack.programs import names_of

WORKERS = {stage: names_of(stage, 2) for stage in Stage}
SWEEPERS = names_of("sweeper", 2)
PROGRAMS = [*(name for names in WORKERS.values() for name in names), *SWEEPERS, "api"]
USERS = [*PROGRAMS, "flower"]
"""Each of them is a user of the store."""
TURNABLE = [WORKERS[stage][1] for stage in (Stage.PREPROCESS, Stage.POSTPROCESS)]
"""Workers whose clock can be set; the stage's other worker has the right time. libfaketime takes a lock of its own:
3 of 25 children that a busy process with threads forked under it hung when they first read the time (0 of 300
without). At scoring, where children hang and are replaced on purpose, that would be measured instead."""
LIMITS = {
    "SCORELINE_SOFT_LIMIT_S": "4",
    "SCORELINE_HARD_LIMIT_S": "6",
    "SCORELINE_BELL_S": "2",
    "SCORELINE_START_LIMIT_S": "20",  # see TURNABLE
}
REPLACED_S = 6 + 2 + 5
"""Seconds that a worker may have no child after a batch that hangs: the hard limit, the bell's time before, and 5."""


class Testbed(Running):
    """A local stack with two workers a stage and two sweepers."""

    def __init__(self, durability: Durability, *, clocks: bool, logs: Path | None = None) -> None:
        """``clocks``: whether those of ``TURNABLE`` can be set. ``logs``: where all logs are copied at the end."""
        self._logs = logs
        self.folder = Path(tempfile.mkdtemp(prefix="scoreline-chaos-"))
        self.proxy = ProxyProcess(USERS)
        environments = {}
        for name in USERS:
            at = f"{name}:{PASSWORD}@127.0.0.1:{self.proxy.ports[name]}"
            environments[name] = {"SCORELINE_STORE_URL": f"redis://{at}/0"}
        users = self.folder / "users.acl"
        write_users(users, USERS)
        for names in WORKERS.values():
            for name in names:
                self.failpoints(name).mkdir(parents=True)
                environments[name]["SCORELINE_FAILPOINTS"] = str(self.failpoints(name))
        for name in WORKERS[Stage.SCORING]:
            self.say_device(name)
        for name in TURNABLE if clocks else ():
            self.turn_clock(name, 0)
            environments[name] |= _own_clock(self._clock(name))
        self.stack = LocalStack(
            read_settings(),
            data_dir=self.folder / "stack",
            durability=durability,
            chaos_model=True,
            scoring_workers=2,
            other_workers=2,
            sweepers=2,
            environment=LIMITS,
            environments=environments,
            store_options=["--aclfile", str(users)],
        )
        self.proxy.target(urlsplit(self.stack.store_url).port or 0)

    def start(self) -> None:
        """Starts the stack; the proxy runs already."""
        self.stack.start()

    def stop(self) -> None:
        """Stops everything; keeps the logs if a folder is given for them."""
        self.stack.stop()
        self.proxy.stop()
        if self._logs is not None:
            shutil.copytree(self.stack.data_dir / "logs", self._logs, dirs_exist_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def failpoints(self, name: str) -> Path:
        """Returns the folder in which this worker's failpoints are armed."""
        return self.folder / "failpoints" / name

    def _clock(self, name: str) -> Path:
        return self.folder / f"clock-{name}"

    def turn_clock(self, name: str, seconds: int) -> None:
        """Sets this worker's wall clock wrong by so many seconds, at once, while it runs."""
        self._clock(name).write_text(f"{seconds:+d}\n")

    def say_device(self, name: str, *, lost: bool = False) -> None:
        """Sets what the driver reports of this scoring worker's device (see ``pipeline/testing/stub_nvml.py``)."""
        gpu = {"name": "Stub", "uuid": f"GPU-{name}", "memory": [1 << 30, 80 << 30], "lost": lost}
        whole = self.failpoints(name) / ".nvml"
        whole.write_text(json.dumps({"gpus": [gpu]}))
        whole.replace(self.failpoints(name) / "nvml.json")

    def logs(self, names: Collection[str]) -> dict[str, int]:
        """Returns how long each program's log is (bytes)."""
        return {name: self.stack.log(name).stat().st_size for name in names}

    def logged_since(self, lengths: dict[str, int]) -> str:
        """Returns what was written to these logs since they had these lengths."""
        return "\n".join(
            self.stack.log(name).read_bytes()[length:].decode(errors="replace") for name, length in lengths.items()
        )


def _own_clock(file: Path) -> dict[str, str]:
    """Returns the environment of a process whose wall clock is wrong by what ``file`` says, and no other clock."""
    package = importlib.util.find_spec("libfaketime")
    if package is None or package.origin is None:
        raise RuntimeError("the fault `clock` needs libfaketime (extra `dev`): run `make install`")
    library = Path(package.origin).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_CACHE_DURATION": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
