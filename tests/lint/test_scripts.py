"""The ledger's scripts: each is Lua 5.1 as a whole, names its arguments at its top, and shares what others use."""

import json
import re
from pathlib import Path

import pytest
from luaparser import ast

from pipeline.ledger import constants
from pipeline.ledger.keys import TAG
from pipeline.ledger.scripts import SCRIPTS, source

FOLDER = Path(__file__).parent.parent.parent / "pipeline" / "ledger"
FILES = {path.relative_to(FOLDER / "lua").as_posix(): path.read_text() for path in FOLDER.glob("lua/**/*.lua")}
LOCALS_OF_A_FUNCTION = 200
"""More of them Lua 5.1 does not compile."""


def code_of(text: str) -> str:
    """A script without its comments."""
    return re.sub(r"--[^\n]*", "", text)


def test_every_script_is_loaded_and_every_loaded_script_exists() -> None:
    assert {name.removesuffix(".lua") for name in FILES if "/" not in name} == set(SCRIPTS)
    assert {Path(name).stem for name in FILES if "/" in name} == {"base"}.union(*SCRIPTS.values())


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


def shared_by(text: str) -> set[str]:
    """The names that a part of the prelude defines at its top level."""
    found = re.findall(r"^local (?:function (\w+)|([\w, ]+))", code_of(text), re.MULTILINE)
    return {name for function, names in found for name in re.findall(r"\w+", function or names)}


SHARED = {Path(name).stem: shared_by(text) for name, text in FILES.items() if "/" in name}


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_script_has_the_parts_of_the_prelude_that_it_uses(name: str) -> None:
    words = {part: set(re.findall(r"\w+", code_of(FILES[f"prelude/{part}.lua"]))) for part in SHARED}
    own = set(re.findall(r"\w+", code_of(FILES[f"{name}.lua"])))
    parts = ("base", *SCRIPTS[name])
    used = own.union(*(words[part] for part in parts)) - shared_by(FILES[f"{name}.lua"])
    lacking = {part: found for part in SHARED if part not in parts and (found := SHARED[part] & used)}
    assert lacking == {}
    for place, part in enumerate(parts[1:], 1):
        later = own.union(*(words[each] for each in parts[place + 1 :]))
        assert SHARED[part] & later, f"{part} stands there for nothing"


def test_what_the_prelude_shares_is_used() -> None:
    code = "\n".join(code_of(text) for text in FILES.values())
    unused = {name for names in SHARED.values() for name in names if len(re.findall(rf"\b{name}\b", code)) < 2}
    assert unused == set()


def test_the_bell_is_json_with_the_places_that_a_ring_fills() -> None:
    bell = json.loads((FOLDER / "bell.json").read_text())
    assert json.loads(bell["body"])[0] == ["__LANE__"]
    assert bell["headers"]["task"] == "__STAGE__.run"
