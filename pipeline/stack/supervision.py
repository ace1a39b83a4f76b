"""Supervision of a local stack by supervisord.

A program that dies is started again, after each failed start a second later than before, until START_TRIES starts have
failed. A program that does not answer ``/livez`` any more is replaced by its probe.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import xmlrpc.client
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from supervisor.xmlrpc import Faults, SupervisorTransport

from pipeline.service.entry_points import EntryPoint, command
from pipeline.stack.programs import Program

START_TRIES = 20
START_S = 6
"""A process that dies sooner has failed to start (backoff); it is not probed before."""
PROBE_S = 21
"""How long a probe waits for an answer. httpok asks again after ten seconds where nothing listens yet: a start may take
26 seconds before it is begun again, or a busy machine would never get beyond starting."""
SOCKET = "supervisor.sock"


class Supervision:
    """One supervisord and the programs that it runs."""

    def __init__(self, programs: Sequence[Program], folder: Path, environment: Mapping[str, str]) -> None:
        self._programs = programs
        self._folder = folder
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._socket = folder / SOCKET

    def start(self) -> None:
        """Writes the configuration and starts supervisord in a session of its own: Ctrl-C must not reach it."""
        (self._folder / "logs").mkdir(exist_ok=True)
        config = self._folder / "supervisord.conf"
        config.write_text(self._config())
        self._process = subprocess.Popen(
            command(EntryPoint.SUPERVISORD, "--nodaemon", "--configuration", str(config)),
            env={**os.environ, **self._environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(self._folder / "logs" / "supervisord.err").open("wb"),
            start_new_session=True,
        )

    def alive(self) -> bool:
        """Whether supervisord itself runs."""
        return self._process is not None and self._process.poll() is None

    def root_pids(self) -> list[int]:
        """Returns supervisord's own process id; everything else descends from it."""
        return [self._process.pid] if self._process else []

    def states(self) -> dict[str, dict[str, Any]]:
        """Returns what supervisord knows of each program, by name; empty while it does not answer yet."""
        try:
            return {info["name"]: info for info in self._call("getAllProcessInfo")}
        except (OSError, xmlrpc.client.Error):
            return {}

    def pids(self) -> dict[str, list[int]]:
        """Returns the process id of each running program."""
        states = self.states()
        return {
            program.name: [info["pid"]]
            for program in self._programs
            if (info := states.get(program.name)) and info["pid"]
        }

    def log(self, name: str) -> Path:
        """Returns where a program's output goes."""
        return self._folder / "logs" / f"{name}.log"

    def log_tail(self, name: str, lines: int = 15) -> str:
        """Returns the last lines that a program wrote."""
        path = self.log(name)
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""

    def stop(self) -> None:
        """Drains: all services finish what they have begun, at once; then the store stops, then supervisord."""
        if self._process is None:
            return
        if self.alive():
            # It may be on its way out already: then its TERM handler stops everything.
            with contextlib.suppress(OSError, xmlrpc.client.Error):
                self.stop_groups()
            self._process.send_signal(signal.SIGTERM)
        self._process.wait()

    def stop_groups(self) -> None:
        """Sends SIGTERM to all services at once, and to the store when they have stopped."""
        for group in ("services", "store"):
            self._call("stopProcessGroup", group)

    def start_serving(self) -> None:
        """Starts the programs that requests need after ``stop_groups``; does not wait for them."""
        for program in self._programs:
            if program.serves:
                self._start(f"{program.group}:{program.name}")

    def start_rest(self) -> None:
        """Starts what requests do not need, and the probes: earlier they would slow down the programs that serve."""
        for program in self._programs:
            if not program.serves:
                self._start(f"{program.group}:{program.name}")
            if program.livez:
                self._start(f"probe-{program.name}")

    def start_program(self, name: str) -> None:
        """Starts a service unless it runs, as an operator would; does not wait for it."""
        self._start(f"services:{name}")

    def _start(self, name: str) -> None:
        try:
            self._call("startProcess", name, False)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != Faults.ALREADY_STARTED:
                raise

    def _call(self, method: str, *arguments: Any) -> Any:
        transport = SupervisorTransport(None, None, f"unix://{self._socket}")
        proxy = xmlrpc.client.ServerProxy("http://127.0.0.1", transport)
        return getattr(proxy.supervisor, method)(*arguments)

    def _config(self) -> str:
        sections = [
            "[supervisord]",
            f"logfile={_quoted(self._folder / 'logs' / 'supervisord.log')}",
            f"pidfile={_quoted(self._folder / 'supervisord.pid')}",
            f"directory={_quoted(self._folder)}",
            "silent=true",
            "",
            "[unix_http_server]",
            f"file={_quoted(self._socket)}",
            "chmod=0600",
            "",
            "[supervisorctl]",
            f"serverurl=unix://{_quoted(self._socket)}",
            "",
            "[rpcinterface:supervisor]",
            "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface",
            "",
        ]
        for program in self._programs:
            sections += [
                f"[program:{program.name}]",
                f"command={_quoted(shlex.join(program.command))}",
                f"stdout_logfile={_quoted(self._folder / 'logs' / program.name)}.log",
                "redirect_stderr=true",
                "stdout_logfile_maxbytes=20MB",
                "stdout_logfile_backups=2",
                # A program is started again whatever it dies of, unless it asks for an operator (75: drain this node).
                "autorestart=unexpected",
                "exitcodes=75",
                f"startsecs={START_S}",
                f"startretries={START_TRIES}",
                "stopsignal=TERM",
                f"stopwaitsecs={program.stop_s}",
                "killasgroup=true",
                f"environment={_assignments(program.environment)}",
                f"autostart={str(program.serves).lower()}",
                "",
            ]
        for group, priority in (("store", 1), ("services", 10)):
            names = ",".join(program.name for program in self._programs if program.group == group)
            sections += [f"[group:{group}]", f"programs={names}", f"priority={priority}", ""]
        for program in self._programs:
            if program.livez:
                probe = command(EntryPoint.PROBE, "-E", "-t", str(PROBE_S), "-p", program.name, program.livez)
                sections += [
                    f"[eventlistener:probe-{program.name}]",
                    f"command={_quoted(shlex.join(probe))}",
                    "events=TICK_5",
                    "priority=20",
                    "autostart=false",  # see start_rest
                    "stopwaitsecs=2",
                    f"stderr_logfile={_quoted(self._folder / 'logs' / f'probe-{program.name}')}.log",
                    "",
                ]
        return "\n".join(sections)


def _assignments(environment: Mapping[str, str]) -> str:
    return ",".join(f'{name}="{_quoted(value)}"' for name, value in environment.items())


def _quoted(text: object) -> str:
    """Doubles percent signs: supervisord expands %(...)s in its configuration."""
    return str(text).replace("%", "%%")
