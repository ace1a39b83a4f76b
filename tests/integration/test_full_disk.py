"""A disk that was full for a while, against a real server: nothing that was acknowledged is lost afterwards."""

import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from redis.exceptions import ResponseError

from pipeline.ledger.sweeper.maintenance import Sweeping
from pipeline.settings import Settings, read_settings
from pipeline.stack.store_server import server_command
from pipeline.store.connection import Client, connect
from tests.support.processes import eventually, free_port


def test_a_store_whose_disk_was_full_keeps_what_it_has_acknowledged(tmp_path: Path) -> None:
    """Valkey cuts off a line that it could write in part only, but goes on behind it: a file that cannot be loaded."""
    settings = read_settings({"SCORELINE_STORE_URL": f"redis://127.0.0.1:{free_port()}/0"})
    client = connect(settings)
    server = start_store(settings, tmp_path)
    try:
        client.bgrewriteaof()  # only what follows a rewrite is so
        eventually(lambda: rewritten(client))
        client.set("before", "x")
        sweeping, process = Sweeping(client, settings), psutil.Process(server.pid)
        files = tmp_path / "appendonlydir"
        size = max(file.stat().st_size for file in files.iterdir() if "incr" in file.name)
        process.rlimit(psutil.RLIMIT_FSIZE, (size + 50, psutil.RLIM_INFINITY))
        with pytest.raises(ResponseError, match="MISCONF"):
            fill(client)
        sweeping.shortage()
        process.rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
        eventually(lambda: client.info("persistence")["aof_last_write_status"] == "ok")
        client.set("after", "x")
        sweeping.shortage()
        eventually(lambda: rewritten(client))
        server.kill()
        server.wait()
        server = start_store(settings, tmp_path)
        assert client.mget("before", "after") == [b"x", b"x"]
    finally:
        server.kill()
        server.wait()


def rewritten(client: Client) -> bool:
    facts = client.info("persistence")
    return not facts["aof_rewrite_in_progress"] and facts["aof_last_rewrite_time_sec"] >= 0


def fill(client: Client) -> None:
    for number in range(100):
        client.set(f"large-{number}", "x" * 40)


def start_store(settings: Settings, folder: Path) -> subprocess.Popen[bytes]:
    port = urlsplit(settings.store_url).port or 0
    # As under supervisord: Python ignores what the kernel sends to who writes beyond a limit.
    server = subprocess.Popen(server_command(port, folder, "process"), stdout=subprocess.DEVNULL, restore_signals=False)
    eventually(connect(settings).ping)
    return server
