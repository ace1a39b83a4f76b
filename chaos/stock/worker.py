"""What a stock worker runs, by ``celery -A chaos.stock.worker``: three tasks, each noting its start and its end."""

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from celery.signals import worker_process_init

from chaos.stock.app import make_app, task_name
from chaos.stock.notes import Notebook
from pipeline.contracts.stages import Stage
from pipeline.contracts.work import Output
from pipeline.models.folder import ModelStore
from pipeline.settings import settings
from pipeline.stage.protocols import StageService
from tasks.stages import load_stage

app = make_app(os.environ["STOCK_URL"], json.loads(os.environ["STOCK_OPTIONS"]))
Work = dict[str, Any]
"""``request``: whose; ``body``: what the stage takes; ``seconds``: how much longer scoring takes."""


class _Child:
    """What a child of the pool holds."""

    def __init__(self) -> None:
        stage = Stage(os.environ["STOCK_STAGE"])
        store = ModelStore(settings().model_store)
        self.ref = next(artifact.ref for artifact in store.all() if artifact.ref.name == "credit-default")
        self.service: StageService = load_stage(stage, settings())
        self.notebook = Notebook(Path(os.environ["STOCK_NOTES"]))


_child: _Child


@worker_process_init.connect
def _start(**_: object) -> None:
    global _child
    _child = _Child()


def _perform(stage: Stage, work: Work, body: Any) -> Any:
    answer = _child.service.perform(_child.ref, [body])[0]
    assert isinstance(answer, Output), answer
    if stage is Stage.SCORING:
        time.sleep(work["seconds"])
    return answer.body


@app.task(name=task_name(Stage.PREPROCESS))
def preprocess(work: Work) -> Work:
    """Validate and encode one row."""
    _child.notebook.note("start", Stage.PREPROCESS, work["request"])
    vector = np.frombuffer(_perform(Stage.PREPROCESS, work, work["body"]), dtype=np.float32)
    _child.notebook.note("end", Stage.PREPROCESS, work["request"])
    return work | {"body": [float(value) for value in vector]}


@app.task(name=task_name(Stage.SCORING))
def scoring(work: Work) -> Work:
    """Run the model on one row."""
    _child.notebook.note("start", Stage.SCORING, work["request"])
    raw = float(_perform(Stage.SCORING, work, np.array(work["body"], dtype=np.float32).tobytes()))
    _child.notebook.note("end", Stage.SCORING, work["request"])
    return work | {"body": raw}


@app.task(name=task_name(Stage.POSTPROCESS))
def postprocess(work: Work) -> dict[str, Any]:
    """Calibrate and decide one row."""
    _child.notebook.note("start", Stage.POSTPROCESS, work["request"])
    result = dict(_perform(Stage.POSTPROCESS, work, work["body"]))
    _child.notebook.note("end", Stage.POSTPROCESS, work["request"])
    return result
