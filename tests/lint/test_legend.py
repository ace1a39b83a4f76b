"""The legend of keys agrees with the scripts, the modules and its page."""

import re
from pathlib import Path

import pytest

from pipeline.ledger import keys
from pipeline.ledger.legend import LEGEND, table

REPOSITORY = Path(__file__).parent.parent.parent
PAGE = REPOSITORY / "docs" / "keys.md"
SCRIPTS = {
    path.stem: re.sub(r"--[^\n]*", "", path.read_text()) for path in REPOSITORY.glob("pipeline/ledger/lua/**/*.lua")
}
MODULES = {
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts): path.read_text()
    for folder in ("pipeline/ledger", "chaos")
    for path in REPOSITORY.glob(f"{folder}/**/*.py")
}
STOCK = {"kombu"}
KINDS = {re.sub(r"[A-Z][A-Z_]*.*", "", key.name): key for key in LEGEND}
WRITES = "SET|HSET|HINCRBY|INCR|INCRBY|ZADD|LPUSH|RPUSH|SADD|XADD"


def mentioned(text: str) -> set[str]:
    """The kinds of keys that a script names."""
    return set(re.findall(r"(?:P \.\. |keys_of\()'([a-z]+(?:_[a-z]+)*:?)", text))


def test_the_page_shows_the_legend() -> None:
    """Written by: python -c 'from pipeline.ledger.legend import table; print(table())'."""
    assert table() in PAGE.read_text()


def test_each_key_is_in_the_legend_once() -> None:
    assert len({key.name for key in LEGEND}) == len(LEGEND)
    named = {value.removeprefix(keys.TAG) for name, value in vars(keys).items() if name.isupper() and name != "TAG"
             if isinstance(value, str) and name != "ENDED"}  # fmt: skip
    assert named - {key.name for key in LEGEND} == set()


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_a_script_names_is_in_the_legend(name: str) -> None:
    assert mentioned(SCRIPTS[name]) - set(KINDS) == set()
    direct = set(re.findall(rf"'(?:{WRITES})', P \.\. '([a-z]+(?:_[a-z]+)*:?)", SCRIPTS[name]))
    assert {kind for kind in direct if name not in KINDS[kind].owners} == set(), "it writes them and owns them not"


@pytest.mark.parametrize("key", LEGEND, ids=lambda key: key.name)
def test_each_owner_is_there_and_names_its_key(key: object) -> None:
    assert isinstance(key, tuple)
    kind = re.sub(r"[A-Z][A-Z_]*.*", "", key.name)
    for owner in set(key.owners) - STOCK:
        if owner in SCRIPTS and kind not in ("preprocess", "scoring", "scoring.", "postprocess"):
            word = kind.removesuffix(":")
            assert kind in mentioned(SCRIPTS[owner]) or f"'{word}'" in SCRIPTS[owner], owner
        elif owner not in SCRIPTS:
            found = [text for name, text in MODULES.items() if name.endswith(f".{owner}") or name == owner]
            assert any(f"keys.{kind.upper()}" in text for text in found), owner
