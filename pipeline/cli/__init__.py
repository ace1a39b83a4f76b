"""The command line: ``scoreline COMMAND``.

``services``  up, worker, sweeper, api, train-demo, publish, doctor
``producers`` submit, status, stats, models
``letters``   dead list|show|replay|purge
``demo``      the demo
``load``      load at a rate: ``offering`` is its open loop, ``targets`` where it goes
``console``   output: tables or JSON, problems as exit codes
"""

from pipeline.cli.console import run
from pipeline.cli.main import cli


def main() -> None:
    """Entry point of ``scoreline``."""
    run(cli)
