"""``python -m tasks STAGE``: the start command of a worker service (``scoreline worker STAGE`` runs it)."""

import argparse
import sys

from pipeline.contracts.stages import Stage
from pipeline.settings import settings
from pipeline.telemetry.logs import configure_logging
from pipeline.worker.devices.each_device import one_for_each, several
from pipeline.worker.devices.nvml import NoDriver
from tasks.app import app
from tasks.worker import run_worker


def main() -> None:
    """Reads the command line and runs the worker."""
    parser = argparse.ArgumentParser(prog="scoreline worker", description="Run one stage's worker.")
    parser.add_argument("stage", choices=[str(stage) for stage in Stage])
    parser.add_argument("--health-port", type=int, help="serve /livez and /readyz on this port (0: a free one)")
    parser.add_argument("--pool", default="", help="serve this pool of models (scoring only)")
    parser.add_argument("--standby", action="store_true", help="claim only while workers are missing (scoring only)")
    options = parser.parse_args()
    stage = Stage(options.stage)
    own = settings().for_worker()
    if stage is not Stage.SCORING and (options.pool or options.standby):
        parser.error("--pool and --standby are for scoring only")
    if options.standby and not own.expected_scoring_workers:
        parser.error("--standby: set SCORELINE_EXPECTED_SCORING_WORKERS, it claims while fewer are alive")
    if own.failpoints is not None:
        from pipeline.testing.stub_nvml import StubNvml  # noqa: PLC0415 - for tests only

        StubNvml.take_the_place(own.failpoints)
    devices = several(own) if stage is Stage.SCORING else []
    if devices:
        configure_logging("workers")  # each worker does so for itself
        sys.exit(one_for_each(devices, sys.argv[1:], options.health_port))
    try:
        run_worker(app, stage, own, health_port=options.health_port, pool=options.pool, stands_by=options.standby)
    except NoDriver as reason:
        sys.exit(f"scoreline worker: {reason}: set SCORELINE_DEVICE to auto or cpu, or repair the driver")


main()
