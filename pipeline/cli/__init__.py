"""The command line: ``scoreline COMMAND``.

``main``         all commands, put together
``services``     up, worker, sweeper, api, train-demo, import-minilm, publish, doctor, bench, chaos
``producers``    submit, status, cancel: ``rows`` reads a file, ``submitting`` sends it, ``result_file`` keeps the
                 results
``operators``    stats, workers, models, devices
``dead_letters`` dead list|show|replay|purge
``demo``         the demo
``load``         load at a rate
``doctor``       the checks of doctor
``extras``       what a command needs beyond the base install
``console``      output: tables or JSON; errors as one line and an exit code
"""

from pipeline.cli.console import run
from pipeline.cli.main import cli


def main() -> None:
    """Entry point of ``scoreline``."""
    run(cli)
