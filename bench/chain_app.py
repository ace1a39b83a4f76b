"""The baseline, as most teams would write it: three Celery tasks in a chain, one message a request at each step.

Prefork, one process a task, default acks, JSON, a Redis result backend that keeps the final result only. The tasks run
the very same stage code as Scoreline, a row at a time.
"""

import os
from typing import Any

from celery import Celery
from celery.signals import worker_process_init

from bench.plain_tasks import PlainTask
from pipeline.contracts.stages import Stage

URL = os.environ.get("BENCH_CHAIN_URL", "redis://127.0.0.1:6379/0")
app = Celery("chain", broker=URL, backend=URL)
app.conf.update(
    task_routes={f"bench.chain_app.{stage}": {"queue": str(stage)} for stage in Stage},
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    worker_proc_alive_timeout=60,
)
_task: PlainTask


@worker_process_init.connect
def _load(**_: object) -> None:
    global _task
    _task = PlainTask(Stage(os.environ["BENCH_CHAIN_STAGE"]))


@app.task(ignore_result=True)
def preprocess(features: dict[str, Any]) -> list[float]:
    """Validates and encodes one row."""
    vector: list[float] = _task.run(features)
    return vector


@app.task(ignore_result=True)
def scoring(vector: list[float]) -> float:
    """Runs the model on one row."""
    raw: float = _task.run(vector)
    return raw


@app.task
def postprocess(raw: float) -> dict[str, Any]:
    """Calibrates and decides one row."""
    result: dict[str, Any] = _task.run(raw)
    return result
