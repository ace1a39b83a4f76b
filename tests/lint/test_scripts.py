"""The ledger's scripts: each is Lua 5.1 as a whole, names its arguments at its top, and shares what others use."""

import json
import re
from pathlib import Path

import pytest
from luaparser import ast

from pipeline.ledger import constants
from pipeline.ledger.keys import TAG
from pipeline.ledger.scripts import OWN_PARTS, PRELUDE, SCRIPTS, source

FOLDER = Path(__file__).parent.parent.parent / "pipeline" / "ledger"
FILES = {path.relative_to(FOLDER / "lua").as_posix(): path.read_text() for path in FOLDER.glob("lua/**/*.lua")}
LOCALS_OF_A_FUNCTION = 200
"""More of them Lua 5.1 does not compile."""


def code_of(text: str) -> str:
    """A script without its comments."""
    return re.sub(r"--[^\n]*", "", text)


def test_every_script_is_loaded_and_every_loaded_script_exists() -> None:
    assert {name.removesuffix(".lua") for name in FILES if "/" not in name} == set(SCRIPTS)
    parts = {*PRELUDE, *(part for own in OWN_PARTS.values() for part in own)}
    assert {Path(name).stem for name in FILES if "/" in name} == parts


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_assembled_script_is_lua(name: str) -> None:
    text = source(name, flags=False)
    ast.parse(text)
    names = re.findall(r"^local (?:function )?([\w, ]+)", text, re.MULTILINE)
    assert len(",".join(names).split(",")) < 0.9 * LOCALS_OF_A_FUNCTION


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_script_names_its_arguments_at_its_top(name: str) -> None:
    """``local NAME = ARGV[n]`` or the same as a number or a flag, one after the other; then where a list begins."""
    named = re.compile(r"local \w+ = (?:tonumber\()?ARGV\[(\d+)\]\)?(?: == '1')?$")
    lines = [line.strip() for line in code_of(FILES[f"{name}.lua"].split("\n", 1)[1]).split("\n") if line.strip()]
    top = []
    while lines and (found := named.match(lines[0])):
        top.append(int(found[1]))
        lines.pop(0)
    assert top == list(range(1, len(top) + 1))
    rest = "\n".join(lines)
    assert not re.search(r"ARGV\[\d+\]", rest), "an argument without a name"
    if "ARGV" in rest:
        first = re.search(r"^local FIRST(?:, STEP)? = (\d+)|^local forwards_at = (\d+)", rest, re.MULTILINE)
        assert first, "a list begins at a named place"
        assert int(first[1] or first[2]) == len(top) + 1


def test_the_partition_is_the_only_key_of_every_script() -> None:
    assert FILES["prelude/base.lua"].count("local P = KEYS[1]") == 1
    for name, text in FILES.items():
        assert TAG not in text, name
        assert len(re.findall(r"\bKEYS\b", code_of(text))) == (name == "prelude/base.lua"), name


def test_every_constant_is_used_and_none_is_written_a_second_time() -> None:
    code = "\n".join(code_of(text) for text in FILES.values())
    assert [name for name in constants.INJECTED if not re.search(rf"\b{name}\b", code)] == []
    defined = set(re.findall(r"\b([A-Z][A-Z_]{2,})\b(?:, \w+)* = ", code))
    assert defined & set(constants.INJECTED) == set()


def test_no_milliseconds_stand_bare_in_a_script() -> None:
    """1000 turns seconds into milliseconds; 1 is the clock's step."""
    bare = {name: re.findall(r"(?<![\w.])[2-9]\d{3,}|(?<![\w.])1\d{4,}", code_of(text)) for name, text in FILES.items()}
    assert {name: found for name, found in bare.items() if found} == {}


def test_what_the_prelude_shares_is_used() -> None:
    parts = {name: code_of(text) for name, text in FILES.items()}
    unused = []
    for name, text in parts.items():
        if "/" in name:
            for found in re.findall(r"^local (?:function (\w+)|([\w, ]+))", text, re.MULTILINE):
                for shared in re.findall(r"\w+", "".join(found)):
                    if sum(len(re.findall(rf"\b{shared}\b", part)) for part in parts.values()) < 2:
                        unused.append((name, shared))
    assert unused == []


def test_the_bell_is_json_with_the_places_that_a_ring_fills() -> None:
    bell = json.loads((FOLDER / "bell.json").read_text())
    assert json.loads(bell["body"])[0] == ["__LANE__"]
    assert bell["headers"]["task"] == "__STAGE__.run"
