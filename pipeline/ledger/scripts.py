"""Loads the ledger's scripts: each ``lua/NAME.lua`` with the prelude, the bell and the channel before it."""

import json
from functools import cache
from importlib.resources import files
from typing import Any

from pipeline.contracts.attempts import SUSPECT_LOSSES
from pipeline.ledger import keys

SCRIPTS = (
    "accept",
    "claim",
    "settle",
    "park",
    "unpark",
    "ring_if_unattended",
    "heartbeat",
    "release",
    "fence",
    "requeue_due",
    "end_early",
    "fan_out",
    "cache_fill",
    "ring",
    "replay",
    "elect",
    "trim_dead_letters",
    "status",
    "scrub",
    "reopen",
    "rights",
)


PRELUDE = ("base", "flights", "ends", "lanes")
"""Parts of what stands before every script, each using those before it."""

OWN_PARTS = {"accept": ("admission",)}
"""Parts that one script alone needs."""


@cache
def source(name: str, *, channel: str = keys.ENDED, flags: bool = True) -> str:
    """The full text of a script. ``channel``: on which ends are announced (see ``keys.ended_channel``).

    ``flags=False`` leaves out the first line's flags, which fakeredis does not know.
    """
    folder = files("pipeline.ledger")
    text = (folder / "lua" / f"{name}.lua").read_text()
    flag_line = ""
    if text.startswith("#!"):
        flag_line, text = text.split("\n", 1)
    # Minified: the bell is pushed as it stands here, and every byte is sent with every bell.
    bell = json.dumps(json.loads((folder / "bell.json").read_text()), separators=(",", ":"))
    head = flag_line + "\n" if flags and flag_line else ""
    prelude = "\n".join(
        (folder / "lua" / "prelude" / f"{part}.lua").read_text() for part in (*PRELUDE, *OWN_PARTS.get(name, ()))
    )
    constants = f"local BELL, CHANNEL, SUSPECT_LOSSES = [==[{bell}]==], '{channel}', {SUSPECT_LOSSES}"
    return f"{head}{constants}\n{prelude}\n{text}"


class Scripts:
    """The scripts bound to one client (of either kind): ``scripts.accept(args=[...])``.

    Calls go by digest; a server that does not know a script (a fresh one) is sent it.
    """

    def __init__(self, client: Any) -> None:
        flags = not type(client).__module__.startswith("fakeredis")
        channel = keys.ended_channel(client)
        for name in SCRIPTS:
            setattr(self, name, client.register_script(source(name, channel=channel, flags=flags)))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"no script named {name!r} in pipeline/ledger/lua")
