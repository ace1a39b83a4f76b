"""The command line: ``scoreline COMMAND``.

``main``         all commands, put together
``services``     up, worker, sweeper, api, publish, train-demo, import-minilm, doctor, bench, chaos
``producers``    submit, status, cancel
``operators``    stats, workers, models, devices
``dead_letters`` dead list|show|replay|purge
``demo``         the demo
``load``         load at a rate (``pipeline.load`` generates it)
``doctor``       the doctor's checks
``rows``         the rows of a file as requests; ``cells``: the values of a CSV file's cells
``submitting``   the sending of a file's rows
``result_file``  the results of ``submit --out``, in place whole or not at all
``extras``       what a command needs beyond the base install
``console``      output: tables or JSON, problems as exit codes
"""

from pipeline.cli.console import run
from pipeline.cli.main import cli


def main() -> None:
    """Entry point of ``scoreline``."""
    run(cli)
