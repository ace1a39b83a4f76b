"""The baseline, as most teams would write it: three Celery tasks in a chain, one message a request at each step.

Prefork, one process a task, default acks, JSON, a Redis result backend that keeps the final result only. The tasks run
the very same stage code as Scoreline, a row at a time.
"""

import os
from typing import Any

import numpy as np
from celery import Celery
from celery.signals import worker_process_init

from pipeline.contracts.stages import Stage
from pipeline.contracts.work import Output
from pipeline.models.folder import ModelStore
from pipeline.settings import settings
from pipeline.stage.protocols import StageService
from tasks.stages import load_stage

URL = os.environ.get("BENCH_CHAIN_URL", "redis://127.0.0.1:6379/0")
app = Celery("chain", broker=URL, backend=URL)
app.conf.update(
    task_routes={f"bench.chain_app.{stage}": {"queue": str(stage)} for stage in Stage},
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    worker_proc_alive_timeout=60,
)
_services: dict[Stage, StageService] = {}
_ref = next(artifact.ref for artifact in ModelStore(settings().model_store).all())


@worker_process_init.connect
def _load(**_: object) -> None:
    stage = Stage(os.environ["BENCH_CHAIN_STAGE"])
    _services[stage] = load_stage(stage, settings())


def _run(stage: Stage, body: Any) -> Any:
    answer = _services[stage].perform(_ref, [body])[0]
    assert isinstance(answer, Output), answer
    return answer.body


@app.task(ignore_result=True)
def preprocess(features: dict[str, Any]) -> list[float]:
    """Validate and encode one row."""
    return [float(value) for value in np.frombuffer(_run(Stage.PREPROCESS, features), dtype=np.float32)]


@app.task(ignore_result=True)
def scoring(vector: list[float]) -> float:
    """Run the model on one row."""
    return float(_run(Stage.SCORING, np.array(vector, dtype=np.float32).tobytes()))


@app.task
def postprocess(raw: float) -> dict[str, Any]:
    """Calibrate and decide one row."""
    return dict(_run(Stage.POSTPROCESS, raw))
