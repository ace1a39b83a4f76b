"""The suite's own rules: what tests share lies in ``tests/support``, and unit tests lie where the code lies."""

import ast
from pathlib import Path

from pipeline.settings import REPOSITORY

TESTS = REPOSITORY / "tests"
ROOMS = (
    *(path.name for path in (REPOSITORY / "pipeline").iterdir() if (path / "__init__.py").exists()),
    *("preprocess", "scoring", "postprocess", "tasks", "training", "bench", "chaos", "scoreline"),
)


def imported(file: Path) -> set[str]:
    """The modules that a file imports from."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def test_no_test_imports_another() -> None:
    wrong = {
        (str(file.relative_to(TESTS)), module)
        for file in TESTS.rglob("*.py")
        for module in imported(file)
        if module.startswith("tests.") and not module.startswith("tests.support")
    }
    assert wrong == set()


def test_unit_tests_lie_in_rooms() -> None:
    wrong = [path.name for path in (TESTS / "unit").iterdir() if path.is_dir() and path.name not in ROOMS]
    assert [name for name in wrong if not name.startswith("__")] == []
