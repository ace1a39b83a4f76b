"""The floor: the same work over bare lists, with no safety at all. What is above it is the price of never losing any.

``python -m bench.floor STAGE URL`` is a stage: it pops a message of 64 requests (BRPOP), does the very same stage work
as Scoreline, and pushes what came of it to the next list (LPUSH). There are no acks, no claims, no states, and no ids
beyond a message's number: whatever is popped when a process dies is lost, and nothing tells who has asked for what.
"""

import argparse
import gc
from collections.abc import Iterator
from itertools import islice
from typing import Any

import msgpack
import redis

from bench.processes import Baseline
from pipeline.contracts.stages import Stage
from pipeline.contracts.work import Output
from pipeline.models.folder import ModelStore
from pipeline.service.entry_points import CloneEntryPoint, command
from pipeline.settings import settings
from tasks.stages import load_stage

MESSAGE = 64
"""Requests in a message."""
WINDOW = 8192 // MESSAGE
"""Messages under way at most: as many requests as ``score_many`` has."""
RESULTS = "results"
PATIENCE_S = 60


class Floor(Baseline):
    """Three processes over lists, one a stage."""

    def _program(self, stage: Stage) -> tuple[list[str], dict[str, str]]:
        start = command(CloneEntryPoint.BENCH_FLOOR, stage, self.url)
        return start, {"SCORELINE_TORCH_THREADS": "1"}  # as in a local stack

    def score(self, features: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Send them all from one process, and read every result."""
        store = _connect(self.url)
        sent = read = 0
        while part := list(islice(features, MESSAGE)):
            if sent - read == WINDOW:
                yield from _pop(store, RESULTS)[1]
                read += 1
            store.lpush(Stage.PREPROCESS, msgpack.packb((sent, part)))
            sent += 1
        for _ in range(sent - read):
            yield from _pop(store, RESULTS)[1]


def _connect(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, socket_timeout=None)  # BRPOP waits for as long as it is told


def _pop(store: redis.Redis, name: str, patience_s: float = PATIENCE_S) -> tuple[int, list[Any]]:
    popped: Any = store.brpop([name], timeout=patience_s)
    if popped is None:
        raise TimeoutError(f"nothing came to {name} within {patience_s:g} s: does every stage run?")
    number, bodies = msgpack.unpackb(popped[1])
    return number, bodies


def serve(stage: Stage, url: str) -> None:
    """Do a stage's work, message by message, until the process is told to stop."""
    after = {Stage.PREPROCESS: Stage.SCORING, Stage.SCORING: Stage.POSTPROCESS, Stage.POSTPROCESS: RESULTS}[stage]
    service = load_stage(stage, settings())
    ref = next(artifact.ref for artifact in ModelStore(settings().model_store).all())
    store = _connect(url)
    gc.freeze()  # as a worker's child does: what is loaded by now need not be walked again and again
    while True:
        number, bodies = _pop(store, stage, patience_s=0)
        outputs = []
        for answer in service.perform(ref, bodies):
            assert isinstance(answer, Output), answer
            outputs.append(answer.body)
        store.lpush(after, msgpack.packb((number, outputs)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.floor", description="One stage over bare lists.")
    parser.add_argument("stage", type=Stage, choices=list(Stage))
    parser.add_argument("url", help="the server")
    options = parser.parse_args()
    serve(options.stage, options.url)
