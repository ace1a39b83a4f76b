"""``scoreline submit`` as a process: what it refuses, what it leaves of files, and how it ends in the middle."""

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import redis

from pipeline.ledger import keys
from pipeline.models.folder import ModelStore
from pipeline.releases.publishing import publish_all
from pipeline.settings import REPOSITORY, SHIPPED_MODELS, read_settings
from pipeline.store.connection import connect_async
from tests.support.processes import eventually, free_port

SCORELINE = str(Path(sys.executable).parent / "scoreline")
HEADER = "Seniority,Home,Time,Records,Job,Expenses,Income,Assets,Debt,Amount,Price"
GOOD = "10,tenant,36,yes,freelance,48,200,3000,0,2000,{}"
MODEL = ("--model", "credit-default")
BEFORE = "what was there before\n"


@pytest.fixture
def store(valkey: str) -> redis.Redis:
    """An empty store with the shipped models released, and no worker: what is accepted stays unfinished."""
    client = redis.Redis.from_url(valkey)
    client.flushall()

    async def release() -> None:
        producer = connect_async(read_settings({"SCORELINE_STORE_URL": valkey}))
        await publish_all(producer, ModelStore(SHIPPED_MODELS))
        await producer.aclose()

    asyncio.run(release())
    return client


@pytest.fixture
def start(valkey: str) -> Callable[..., subprocess.Popen[str]]:
    def run(*arguments: object, **more: object) -> subprocess.Popen[str]:
        environment = {"PATH": os.environ["PATH"], "COLUMNS": "200", "SCORELINE_STORE_URL": valkey}
        return subprocess.Popen(
            [SCORELINE, "submit", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment | more.pop("environment", {}),  # type: ignore[operator]
            **more,  # type: ignore[call-overload]
        )

    return run


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in err
    return process.returncode, out, " ".join(err.split())


def csv_of(folder: Path, *lines: str, header: str = HEADER, name: str = "rows.csv") -> Path:
    file = folder / name
    file.write_text("\n".join([header, *lines, ""]))
    return file


def accepted(store: redis.Redis) -> int:
    return int(store.zcard(keys.OPEN))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("lines", "header", "said"),
    [
        ((GOOD.format(1), "10,tenant,36,yes,freelance,48,200,3,000,0,2000,2985"), HEADER, "line 3: 12 cells"),
        ((GOOD.format(1), "10,tenant,36,yes,freel"), HEADER, "line 3: 5 cells"),
        ((GOOD.format(1) + ",2",), HEADER + ",Price", "names 'Price' twice"),
        ((GOOD.format(1) + ",7",), HEADER + ",Seniorty", "did you mean 'Seniority'"),
        ((), HEADER.replace(",", ";"), "separated by ';'"),
    ],
)
def test_a_file_with_one_bad_row_sends_none_and_writes_nothing(
    store: redis.Redis,
    start: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
    lines: tuple[str, ...],
    header: str,
    said: str,
) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text(BEFORE)
    code, _, err = ended(start(csv_of(tmp_path, *lines, header=header), *MODEL, "--out", out))
    assert code == 2
    assert said in err
    assert accepted(store) == 0
    assert (out.read_text(), sorted(file.name for file in tmp_path.iterdir())) == (BEFORE, ["out.jsonl", "rows.csv"])


def test_rows_in_the_apis_own_shape_keep_priority_and_key(
    store: redis.Redis, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    features = dict(
        zip(HEADER.split(","), [10, "tenant", 36, "yes", "freelance", 48, 200, 3000, 0, 2000, 5], strict=True)
    )
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"features": features, "priority": "high", "idempotency_key": "k-1"}) + "\n")
    statuses = []
    for name in ("first", "again"):
        out = tmp_path / name
        assert ended(start(file, *MODEL, "--out", out))[0] == 0
        statuses.append(json.loads(out.read_text()))
    assert [status["priority"] for status in statuses] == ["high", "high"]
    assert statuses[0]["request_id"] == statuses[1]["request_id"]
    assert accepted(store) == 1


@pytest.mark.parametrize("way", ["itself", "link", "hard link", "other spelling"])
def test_the_input_is_never_the_output(
    store: redis.Redis, start: Callable[..., subprocess.Popen[str]], tmp_path: Path, way: str
) -> None:
    file = csv_of(tmp_path, GOOD.format(1))
    before, out = file.read_text(), tmp_path / "out.jsonl"
    if way == "itself":
        out = file
    elif way == "link":
        out.symlink_to(file)
    elif way == "hard link":
        out.hardlink_to(file)
    else:
        out = tmp_path / ".." / tmp_path.name / file.name
    code, _, err = ended(start(file, *MODEL, "--out", out))
    assert code == 2
    assert "is the file that is read" in err
    assert file.read_text() == before
    assert accepted(store) == 0


def test_what_was_in_the_output_stays_whatever_is_wrong(
    store: redis.Redis, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    file, out = csv_of(tmp_path, GOOD.format(1)), tmp_path / "out.jsonl"
    out.write_text(BEFORE)
    nobody = {"SCORELINE_STORE_URL": f"redis://127.0.0.1:{free_port()}/0", "SCORELINE_STORE_TIMEOUT_S": "0.1"}
    cases = [
        (start(file, "--model", "credit-defautl", "--out", out), 4, "no model 'credit-defautl'"),
        (start(file, *MODEL, "--out", out, environment={"SCORELINE_MAX_BODY": "1"}), 2, "unknown setting"),
        (start(tmp_path / "no.csv", *MODEL, "--out", out), 2, "does not exist"),
        (start(tmp_path, *MODEL, "--out", out), 2, "is a directory"),
        (start(file, *MODEL, "--out", tmp_path), 2, "is a folder"),
        (start(file, *MODEL, "--out", tmp_path / "no" / "out.jsonl"), 2, "there is no folder"),
        (start(file, *MODEL, "--out", out, environment=nobody), 3, "refused the connection"),
    ]
    for process, code, said in cases:
        found, _, err = ended(process)
        assert (found, said in err) == (code, True), err
        assert out.read_text() == BEFORE
    assert accepted(store) == 0


def test_results_take_the_place_of_earlier_ones_at_the_end(
    store: redis.Redis, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    file, out, link = csv_of(tmp_path, GOOD.format(1)), tmp_path / "real.jsonl", tmp_path / "link.jsonl"
    out.write_text(BEFORE)
    out.chmod(0o640)
    link.symlink_to(out)
    earlier = tmp_path / "real.jsonl.partial"
    earlier.write_text("ids of a run that was killed\n")
    assert ended(start(file, *MODEL, "--out", link))[0] == 0
    assert json.loads(out.read_text())["state"] == "queued"
    assert (link.is_symlink(), out.stat().st_mode & 0o777) == (True, 0o640)
    assert earlier.read_text() == "ids of a run that was killed\n"
    code, printed, _ = ended(start(file, *MODEL, "--out", "/dev/stdout"))
    assert code == 0
    assert json.loads(printed.splitlines()[0])["state"] == "queued"


@pytest.mark.parametrize("wait", [False, True])
@pytest.mark.parametrize("stood", [False, True])
def test_ctrl_c_keeps_every_accepted_request(
    store: redis.Redis, start: Callable[..., subprocess.Popen[str]], tmp_path: Path, wait: bool, stood: bool
) -> None:
    """With ``--wait`` none of them ever ends here, and still each is told of."""
    rows = 20_000
    file, out = csv_of(tmp_path, *(GOOD.format(100 + row) for row in range(rows))), tmp_path / "out.jsonl"
    if stood:
        out.write_text(BEFORE)
    process = start(file, *MODEL, "--out", out, *["--wait"] * wait)
    eventually(lambda: accepted(store) > 500)
    process.send_signal(signal.SIGINT)
    code, _, err = ended(process)
    assert code == 130
    partial = tmp_path / "out.jsonl.partial"
    written = partial if stood else out
    assert not stood or out.read_text() == BEFORE
    ids = [json.loads(line)["request_id"] for line in written.read_text().splitlines()]
    assert len(set(ids)) == len(ids) == accepted(store) < rows
    assert f"interrupted: {len(ids)} of {rows} rows were submitted; their documents are in {written}" in err
    assert partial.exists() is stood


def test_ctrl_c_twice_ends_at_once_though_the_store_hangs(
    store: redis.Redis, valkey: str, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    file, out = csv_of(tmp_path, *(GOOD.format(100 + row) for row in range(20_000))), tmp_path / "out.jsonl"
    process = start(file, *MODEL, "--out", out, environment={"SCORELINE_STORE_TIMEOUT_S": "20"})
    server = int(store.info("server")["process_id"])  # type: ignore[index]
    eventually(lambda: accepted(store) > 500)
    os.kill(server, signal.SIGSTOP)
    try:
        process.send_signal(signal.SIGINT)
        eventually(lambda: process.poll() is not None or process.send_signal(signal.SIGINT))
    finally:
        os.kill(server, signal.SIGCONT)
    code, _, err = ended(process)
    assert code == 130
    told = len(out.read_text().splitlines())
    assert f"{told} of 20000 rows were submitted" in err
    assert told <= accepted(store)
    assert told == accepted(store) or "they may have been accepted" in err


@pytest.mark.parametrize("wait", [False, True])
def test_ctrl_c_while_rows_are_refused_keeps_those_that_were_accepted(
    store: redis.Redis, start: Callable[..., subprocess.Popen[str]], tmp_path: Path, wait: bool
) -> None:
    """Rows that are refused for a while are sent again, for half a minute: of their chunk some were accepted."""
    file, out = csv_of(tmp_path, *(GOOD.format(100 + row) for row in range(20_000))), tmp_path / "out.jsonl"
    out.write_text(BEFORE)
    process = start(file, *MODEL, "--out", out, *["--wait"] * wait, environment={"SCORELINE_MAX_WAITING": "1000"})
    eventually(lambda: accepted(store) >= 1000)
    process.send_signal(signal.SIGINT)
    code, _, _ = ended(process)
    assert code == 130
    statuses = [json.loads(line) for line in (tmp_path / "out.jsonl.partial").read_text().splitlines()]
    ids = {status["request_id"] for status in statuses if "request_id" in status}
    assert len(ids) == accepted(store)


def test_a_full_disk_loses_no_id(
    store: redis.Redis, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """The limit on the size of a file stands in for the disk: what does not fit is told on standard error."""
    file, out = csv_of(tmp_path, *(GOOD.format(100 + row) for row in range(3000))), tmp_path / "out.jsonl"
    out.write_text(BEFORE)
    limit = 200_000
    process = start(
        file, *MODEL, "--out", out, preexec_fn=partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit))
    )
    _, err = process.communicate(timeout=120)
    assert (process.returncode, "Traceback" in err) == (1, False)
    assert "the results cannot be written" in err
    whole = [json.loads(line)["request_id"] for line in (tmp_path / "out.jsonl.partial").read_text().splitlines()]
    told = err[err.index("accepted, and not written:") : err.index("scoreline: ")].split()[4:]
    assert len({*whole, *told}) == len(whole) + len(told) == accepted(store) < 3000
    assert out.read_text() == BEFORE


@pytest.mark.parametrize(
    "command",
    [
        (SCORELINE, "up", "--ready-file"),
        (SCORELINE, "chaos", "--json"),
        (sys.executable, "-m", "chaos.stock", "--json"),
        (sys.executable, "-m", "bench.peers", "--json"),
    ],
)
def test_a_command_that_cannot_write_its_results_says_so_before_it_begins(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    for place, said in ((tmp_path / "no" / "file", "there is no folder"), (tmp_path, "is a folder")):
        done = subprocess.run(
            [*command, place], cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=60
        )
        assert (done.returncode, "Traceback" in done.stderr) == (2, False)
        assert said in " ".join(done.stderr.split())


def test_an_up_that_does_not_start_leaves_anothers_ready_file(tmp_path: Path) -> None:
    ready = tmp_path / "ready.json"
    ready.write_text(BEFORE)
    environment = {"PATH": os.environ["PATH"], "SCORELINE_MODEL_STORE": str(tmp_path / "nothing")}
    command = [SCORELINE, "up", "--ready-file", str(ready)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "cannot be read: No such file" in " ".join(done.stderr.split())
    assert ready.read_text() == BEFORE
