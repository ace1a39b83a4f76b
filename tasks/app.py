"""The Celery app with its three tasks, one for each stage.

Flower and every worker load this module; it never imports torch. A stage's own code runs in the pool's child, where
CUDA must be initialised, never in the parent.
"""

from dataclasses import asdict
from typing import Any

from pipeline.settings import settings
from tasks.broker import make_app
from tasks.child import answer

app = make_app(settings())


@app.task(name="preprocess.run")
def preprocess(lane: str) -> dict[str, Any]:
    """Validates features against the model's schema, encodes them, and marks anomalies. Invalid input ends here."""
    return asdict(answer(lane))


@app.task(name="scoring.run")
def scoring(lane: str) -> dict[str, Any]:
    """Runs the model over batches of one lane."""
    return asdict(answer(lane))


@app.task(name="postprocess.run")
def postprocess(lane: str) -> dict[str, Any]:
    """Calibrates scores, decides, and shapes the results."""
    return asdict(answer(lane))
