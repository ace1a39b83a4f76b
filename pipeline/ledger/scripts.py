"""Loads the ledger's scripts: each ``lua/NAME.lua`` behind the constants and its parts of the prelude."""

import json
from functools import cache, partial
from importlib.resources import files
from typing import Any

from pipeline.ledger import keys
from pipeline.ledger.constants import with_constants

SCRIPTS = {
    "accept": ("flights", "ends", "lanes", "admission"),
    "claim": ("flights", "lanes"),
    "settle": ("flights", "ends", "lanes"),
    "park": ("flights", "lanes"),
    "unpark": (),
    "ring_if_unattended": ("flights", "lanes"),
    "heartbeat": (),
    "release": ("flights", "lanes"),
    "fence": (),
    "requeue_due": ("flights", "lanes"),
    "end_early": ("flights", "ends"),
    "fan_out": ("flights", "ends"),
    "cache_fill": (),
    "ring": ("flights", "lanes"),
    "replay": ("flights", "ends", "lanes"),
    "elect": (),
    "trim_dead_letters": ("ends",),
    "status": (),
    "scrub": ("flights", "ends"),
    "reopen": ("flights", "ends", "lanes"),
    "rights": (),
}
"""Each script, and the parts of the prelude that stand before it, behind ``base``. A script runs from its first line on
with every call: a part that it does not use would cost each call time."""


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
    head = flag_line + "\n" if flags and flag_line else ""
    parts = [(folder / "lua" / "prelude" / f"{part}.lua").read_text() for part in ("base", *SCRIPTS[name])]
    body = "\n".join((*parts, text))
    # Minified: the bell is pushed as it stands here, and every byte is sent with every bell.
    bell = json.dumps(json.loads((folder / "bell.json").read_text()), separators=(",", ":"))
    texts = {"BELL": bell, "CHANNEL": channel}
    return head + with_constants(body, texts={each: text for each, text in texts.items() if each in body})


def bind(client: Any, name: str) -> partial[Any]:
    """One script bound to a client of either kind: call it with ``args=[...]``.

    Its only key is the partition's prefix: every key of the call begins with it, so that a cluster finds the server.
    Calls go by digest; a server that does not know the script (a fresh one) is sent it.
    """
    flags = not type(client).__module__.startswith("fakeredis")
    script = client.register_script(source(name, channel=keys.ended_channel(client), flags=flags))
    return partial(script, keys=[keys.TAG])


class Scripts:
    """The scripts bound to one client (see ``bind``): ``scripts.accept(args=[...])``."""

    def __init__(self, client: Any) -> None:
        for name in SCRIPTS:
            setattr(self, name, bind(client, name))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"no script named {name!r} in pipeline/ledger/lua")
