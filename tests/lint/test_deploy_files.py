"""What `make lint` checks beside style and types: that files written for other tools are what those tools take."""

import json

from pipeline.ledger.keys import TAG
from pipeline.ledger.scripts import SCRIPTS
from pipeline.settings import REPOSITORY


def test_every_script_is_loaded_and_every_loaded_script_exists() -> None:
    found = {path.stem for path in (REPOSITORY / "pipeline" / "ledger" / "lua").glob("*.lua")}
    assert found == set(SCRIPTS)


def test_the_scripts_and_the_legend_agree_on_the_partition_tag() -> None:
    base = (REPOSITORY / "pipeline" / "ledger" / "lua" / "prelude" / "base.lua").read_text()
    assert f"local P = '{TAG}'" in base


def test_the_bell_is_json_with_the_places_that_a_ring_fills() -> None:
    text = (REPOSITORY / "pipeline" / "ledger" / "bell.json").read_text()
    bell = json.loads(text)
    assert json.loads(bell["body"])[0] == ["__LANE__"]
    assert bell["headers"]["task"] == "__STAGE__.run"
