"""``python -m tasks STAGE``: the start command of a worker service (``scoreline worker STAGE`` runs it)."""

import argparse

from pipeline.contracts.stages import Stage
from pipeline.settings import settings
from tasks.app import app
from tasks.worker import run_worker


def main() -> None:
    """Read the command line and run the worker."""
    parser = argparse.ArgumentParser(prog="scoreline worker", description="Run one stage's worker.")
    parser.add_argument("stage", choices=[str(stage) for stage in Stage])
    parser.add_argument("--health-port", type=int, help="serve /livez and /readyz on this port (0: a free one)")
    parser.add_argument("--pool", help="serve this pool of models (scoring only)")
    options = parser.parse_args()
    run_worker(app, Stage(options.stage), settings(), health_port=options.health_port, pool=options.pool)


main()
