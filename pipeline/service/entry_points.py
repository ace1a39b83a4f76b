"""Every module that is started by its name, and the command that starts one.

A module that moves is renamed here and nowhere else: whatever starts processes (the stack, the command line, the
benchmarks, the tests) takes its name from here, and a test starts each.
"""

import os
import sys
from collections.abc import Mapping
from enum import StrEnum

from pipeline.settings import REPOSITORY


class EntryPoint(StrEnum):
    """A module with a ``main`` of its own: ``python -P -m`` runs it."""

    WORKER = "tasks"
    FLOWER = "tasks.flower"
    PUBLISH = "tasks.publish"
    SWEEPER = "pipeline.sweeper"
    API = "pipeline.api"
    SUPERVISORD = "pipeline.stack.supervisord"
    PROBE = "pipeline.stack.probe"
    TRAIN_CREDIT_DEFAULT = "training.credit_default"
    IMPORT_MINILM = "training.relevance_minilm"


class CloneEntryPoint(StrEnum):
    """One that is part of the clone and not of the wheel: it needs ``clone_environment``."""

    BENCH = "bench"
    BENCH_FLOOR = "bench.floor"
    BENCH_SCORING = "bench.scoring"
    CHAOS = "chaos"
    CHAOS_PROXY = "chaos.proxy"


CELERY_APP = "tasks.app"
"""The module that Celery's own commands take as ``-A``."""


def command(module: str, *arguments: str) -> list[str]:
    """Returns the command line that runs a module with this interpreter.

    ``-P`` keeps Python from looking for modules in the working folder first: a ``tasks.py`` or ``redis.py`` that lies
    there by chance would be imported instead of ours. ``python -m`` alone does look there.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


def clone_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Returns an environment (this process's by default) in which modules of the clone can be imported."""
    environment = os.environ if environment is None else environment
    path = os.pathsep.join(filter(None, [str(REPOSITORY), environment.get("PYTHONPATH", "")]))
    return {**environment, "PYTHONPATH": path}
