"""Virtual environments that have the project's wheel and what an extra of it asks for, and nothing else.

What the wheel asks for is linked from the environment that runs the tests, so that no registry is needed; which
distributions these are is read from the wheel's own metadata, so that one which pyproject.toml forgets is missing.
"""

import os
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from importlib.metadata import Distribution, PathDistribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Installed:
    """An environment outside the clone. Its programs run in an empty folder of their own."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def site_packages(self) -> Path:
        return next(self.folder.glob("lib/python*/site-packages"))

    @property
    def cwd(self) -> Path:
        return self.folder / "cwd"

    def environment(self, **settings: str) -> dict[str, str]:
        """The variables for its programs: none of ours, and nothing that leads to the clone."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SCORELINE_", "PYTHON"))}
        return {**kept, **settings}

    def run(self, *command: str | Path, **settings: str) -> subprocess.CompletedProcess[str]:
        """Runs one of its programs (``scoreline``, ``python``) to the end."""
        program, *arguments = command
        return subprocess.run(
            [self.folder / "bin" / program, *arguments],
            env=self.environment(**settings), cwd=self.cwd, capture_output=True, text=True, check=False, timeout=170,
        )  # fmt: skip


def build_wheel(folder: Path) -> Path:
    """The wheel of a copy of the working tree: a build leaves files in its tree, and takes those of the one before."""
    copy = folder / "source"
    shutil.copytree(REPOSITORY, copy, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", folder, copy], check=True)
    return next(folder.glob("*.whl"))


def install(wheel: Path, folder: Path, extra: str = "") -> Installed:
    """An environment with the wheel and one extra of it (none: the base install)."""
    venv.create(folder, with_pip=False, symlinks=True)
    installed = Installed(folder)
    installed.cwd.mkdir()
    command = [sys.executable, "-m", "pip", "--python", installed.python, "install", "--quiet", "--no-deps"]
    subprocess.run([*command, "--no-index", wheel], check=True)
    (metadata,) = installed.site_packages.glob("scoreline-*.dist-info")
    for each in asked_for(PathDistribution(metadata), extra):
        _link(each, installed.site_packages)
    return installed


def asked_for(own: Distribution, extra: str) -> list[Distribution]:
    """Every distribution that ours needs with this extra, and those that they need."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    ours = canonicalize_name(own.name)
    waiting = [(ours, ""), (ours, extra)]
    while waiting:
        name, chosen = waiting.pop()
        if (name, chosen) in seen:
            continue
        seen.add((name, chosen))
        if name != ours:
            found[name] = distribution(name)
        for text in (own if name == ours else found[name]).requires or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": chosen}):
                needed = canonicalize_name(requirement.name)
                waiting += [(needed, ""), *((needed, each) for each in requirement.extras)]
    return list(found.values())


def _link(there: Distribution, site_packages: Path) -> None:
    """Its top-level modules, packages and metadata; its programs are left out: ours are started as modules."""
    for name in {file.parts[0] for file in there.files or [] if file.parts[0] != ".."}:
        place = site_packages / name
        if not place.exists():
            place.symlink_to(Path(str(there.locate_file(name))))
