"""The processes of a local stack."""

import psutil

from pipeline.contracts.stages import Stage
from pipeline.stack.local import LocalStack
from tests.support.processes import eventually

BELL_S = 2.0
"""How long a bell is answered at most, in the shared stack: tests that look at jobs wait for that."""


def pid_of(stack: LocalStack, name: str) -> int:
    return stack.ready_document()["pids"][name][0]


def child_of(stack: LocalStack, stage: Stage) -> psutil.Process:
    return eventually(lambda: psutil.Process(pid_of(stack, stage)).children())[0]  # type: ignore[index]
