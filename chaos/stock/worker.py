"""The tasks of a stock worker, run by ``celery -A chaos.stock.worker``: each notes its start and its end."""

import json
import os
import time
from pathlib import Path
from typing import Any

from celery.signals import worker_process_init

from bench.plain_tasks import PlainTask
from chaos.stock.app import make_app, task_name
from chaos.stock.notes import Notebook
from pipeline.contracts.stages import Stage

app = make_app(os.environ["STOCK_URL"], json.loads(os.environ["STOCK_OPTIONS"]))
Work = dict[str, Any]
"""``request``: whose; ``body``: what the stage takes; ``seconds``: how much longer scoring takes."""


class _Child:
    """What a child of the pool holds."""

    def __init__(self) -> None:
        self.task = PlainTask(Stage(os.environ["STOCK_STAGE"]))
        self.notebook = Notebook(Path(os.environ["STOCK_NOTES"]))


_child: _Child


@worker_process_init.connect
def _start(**_: object) -> None:
    global _child
    _child = _Child()


def _noted(stage: Stage, work: Work) -> Any:
    """Runs one row; notes its start and its end."""
    _child.notebook.note("start", stage, work["request"])
    body = _child.task.run(work["body"])
    if stage is Stage.SCORING:
        time.sleep(work["seconds"])
    _child.notebook.note("end", stage, work["request"])
    return body


@app.task(name=task_name(Stage.PREPROCESS))
def preprocess(work: Work) -> Work:
    """Validates and encodes one row."""
    return work | {"body": _noted(Stage.PREPROCESS, work)}


@app.task(name=task_name(Stage.SCORING))
def scoring(work: Work) -> Work:
    """Runs the model on one row."""
    return work | {"body": _noted(Stage.SCORING, work)}


@app.task(name=task_name(Stage.POSTPROCESS))
def postprocess(work: Work) -> dict[str, Any]:
    """Calibrates and decides one row."""
    result: dict[str, Any] = _noted(Stage.POSTPROCESS, work)
    return result
