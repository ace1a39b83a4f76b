"""``python -m chaos``, or ``scoreline chaos``: faults under load, and what became of every request."""

import argparse
import asyncio
import gc
import json
import logging
import os
import sys
from pathlib import Path

import structlog

from chaos.report import BAD, show
from chaos.run import Options, prove
from chaos.schedule import FAULTS
from chaos.testbed import Testbed
from pipeline.cli.result_file import result_path, write_whole

NEVER = 2**31 - 1


def main() -> None:
    """Parses the command line, runs, reports; exits 1 if anything was lost, doubled, stuck, wrong, hung or unmet."""
    os.environ["SCORELINE_CHAOS_MODEL"] = "true"  # their results are computed here as well
    parser = argparse.ArgumentParser(prog="scoreline chaos", description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=60, help="at least; each chosen fault is injected once in any case"
    )
    parser.add_argument("--faults", default="", help="comma-separated; without it all")
    parser.add_argument("--seed", type=int, default=1, help="decides the schedule of the faults")
    parser.add_argument("--rate", type=float, help="requests per second offered (default: half of what is measured)")
    parser.add_argument(
        "--settle", type=float, default=60, help="seconds that requests have to end after the last fault"
    )
    parser.add_argument("--durability", choices=["process", "disk"], default="process")
    parser.add_argument("--no-goals", action="store_true", help="slow recoveries and calls do not fail the run")
    parser.add_argument("--json", type=result_path, metavar="FILE", help="write the result there")
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="leave the logs of all processes there")
    arguments = parser.parse_args()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    # Of the repairs at the end of a run only the errors are shown here: what they repaired is in the result.
    logging.getLogger("scoreline").setLevel(logging.ERROR)
    names = arguments.faults.split(",") if arguments.faults else list(FAULTS)
    unknown = sorted(set(names) - set(FAULTS))
    if unknown:
        parser.error(f"no fault {', '.join(unknown)}; there are {', '.join(FAULTS)}")
    # What a run remembers only grows, and none of it is garbage. A full collection would stop the producer for up to a
    # second (0.83 s at 170,000 requests), which would count as the service's.
    gc.set_threshold(*gc.get_threshold()[:2], NEVER)
    options = Options(names, arguments.seconds, arguments.rate, arguments.seed, arguments.settle)
    with Testbed(arguments.durability, clocks="clock" in names, logs=arguments.logs) as testbed:
        document = asyncio.run(prove(testbed, options))
    show(document)
    if arguments.json:
        write_whole(arguments.json, json.dumps(document, indent=1) + "\n")
    # Times are promised for a machine that does nothing else.
    ignored = {"hung"} if arguments.no_goals else set()
    missed = bool(document["goals_missed"]) and not arguments.no_goals
    sys.exit(missed or any(document[name] for name in BAD if name not in ignored))


if __name__ == "__main__":
    main()
