"""A module that a document, a target of make or a deploy file starts by its name exists."""

import importlib.util
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent.parent
STARTED = re.compile(r"python3?(?:, | )(?:-P(?:, | ))?-m(?:, | )([a-z_][\w.]*)")
OF_OTHERS = {"pip", "venv", "pytest", "celery"}
FILES = sorted(
    path
    for pattern in ("Makefile", "*.md", "docs/**/*.md", "bench/**/*.md", "bench/**/*.py", "chaos/**/*.py", "deploy/*")
    for path in REPOSITORY.glob(pattern)
    if path.is_file()
)


def modules() -> set[str]:
    return {module for path in FILES for module in STARTED.findall(path.read_text(errors="replace"))} - OF_OTHERS


def test_they_are_found() -> None:
    assert {"bench", "chaos", "chaos.stock", "tasks.flower"} <= modules()


@pytest.mark.parametrize("module", sorted(modules()))
def test_each_can_be_started(module: str) -> None:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    if spec.submodule_search_locations:
        assert importlib.util.find_spec(f"{module}.__main__") is not None
    else:
        assert re.search(r"^(if __name__ == .__main__.|main\()", Path(str(spec.origin)).read_text(), re.MULTILINE)
