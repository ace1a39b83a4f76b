"""The command lines that start processes of ours, and where modules of the clone are found."""

import os
import sys

from pipeline.service.entry_points import CloneEntryPoint, EntryPoint, clone_environment, command
from pipeline.settings import REPOSITORY


def test_the_clone_comes_before_what_the_user_has_on_the_path() -> None:
    given = {"PYTHONPATH": "/mine", "HOME": "/home"}
    assert clone_environment(given) == {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}/mine", "HOME": "/home"}
    assert clone_environment({}) == {"PYTHONPATH": str(REPOSITORY)}


def test_a_command_runs_a_module_with_this_interpreter_and_not_from_the_working_folder() -> None:
    assert command(EntryPoint.WORKER, "scoring") == [sys.executable, "-P", "-m", "tasks", "scoring"]
    assert command(CloneEntryPoint.CHAOS)[-1] == "chaos"
