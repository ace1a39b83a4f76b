"""The Celery app with its three tasks: the three stages on one screen.

Flower and every worker load this module; none of it imports torch. A stage's own code is loaded in the pool's child
(CUDA must be initialised there and never in the parent).
"""

from dataclasses import asdict
from typing import Any

from pipeline.settings import settings
from tasks.broker import make_app
from tasks.child import answer

app = make_app(settings())


@app.task(name="preprocess.run")
def preprocess(lane: str) -> dict[str, Any]:
    """Validate features against the model's schema, encode them, mark anomalies. Invalid input ends here."""
    return asdict(answer(lane))


@app.task(name="scoring.run")
def scoring(lane: str) -> dict[str, Any]:
    """Run the model over a batch of one lane."""
    return asdict(answer(lane))


@app.task(name="postprocess.run")
def postprocess(lane: str) -> dict[str, Any]:
    """Calibrate, decide, shape the result."""
    return asdict(answer(lane))
