"""Extras: what a command needs beyond the base install, and the line that names it where it is missing."""

import importlib.metadata
import re
from collections.abc import Iterator

DISTRIBUTION = "scoreline"


class MissingExtra(Exception):
    """Something needs an extra that is not installed; the message says how to install it."""

    def __init__(self, extra: str, needing: str) -> None:
        super().__init__(f"{needing} needs the extra \"{extra}\": pip install '{DISTRIBUTION}[{extra}]'")


def require(extra: str, needing: str = "this command") -> None:
    """Raises MissingExtra unless all of an extra is installed. Called before what it brings is imported."""
    if not installed(extra):
        raise MissingExtra(extra, needing)


def installed(extra: str) -> bool:
    """Whether every distribution of an extra, as our own metadata names them, is there. Nothing is imported."""
    return all(any(importlib.metadata.distributions(name=name)) for name in _distributions(extra))


def _distributions(extra: str) -> Iterator[str]:
    """The names of an extra's distributions, with those of the extras that it includes."""
    for requirement in importlib.metadata.requires(DISTRIBUTION) or []:
        wanted, _, condition = requirement.partition(";")
        if f'extra == "{extra}"' not in condition.replace("'", '"'):
            continue
        name, included = re.match(r"([\w.-]+)(?:\[([\w,-]+)\])?", wanted).groups()  # type: ignore[union-attr]
        if name != DISTRIBUTION:
            yield name
            continue
        for each in included.split(","):
            yield from _distributions(each)
