"""``python -m pipeline.telemetry > docs/events.md``: writes the table of events as a document."""

import importlib
import logging
import pkgutil
from typing import get_type_hints

from pipeline.telemetry import events
from pipeline.telemetry.event import Event

HEAD = """# Events

Made by `python -m pipeline.telemetry > docs/events.md` from `pipeline/telemetry/events/`; a test holds them equal.

Services log JSON lines on standard error, and nothing else. Every line has `event` (a name of this table), `level`,
`timestamp` (UTC) and `service`; `exception` is a traceback, where there is one. A line is at most 4096 bytes long:
of longer texts the middle is left out.

What became of one request, over the logs of all processes; `scoreline up` names their folder:

```sh
ID=0192f3a1-7c5e-7b3a-9f00-3c1d2e4f5a6b
jq -cR --arg id "$ID" 'fromjson? | select(.request_id == $id or any(.request_ids[]?; . == $id))' "$LOGS"/*.log
```

`grep -h "$ID" "$LOGS"/*.log` finds the same lines. What fails of one model: `select(.model == "credit-default@1")`.
Equal requests share one flight, whose lines bear the id of the request that began it; a dead letter lists all of them.

Of one batch ten requests at most are told one by one, those that died first; `requests_left_out` counts the others. A
model that fails every row must not write ten thousand lines a second. Dead letters hold every request that died.
Requests that succeed are not logged: their status documents say what happened to them.
"""


def document() -> str:
    """The whole of ``docs/events.md``."""
    parts = [HEAD]
    for module in pkgutil.iter_modules(events.__path__):
        loaded = importlib.import_module(f"{events.__name__}.{module.name}")
        kinds = [kind for kind in Event.TABLE.values() if kind.__module__ == loaded.__name__]
        if kinds:
            parts.append(f"## {module.name.capitalize()}\n\n{loaded.__doc__}\n")
            parts.append("| event | level | from | meaning | fields |\n|---|---|---|---|---|")
            parts[-1] += "".join(f"\n{_row(kind)}" for kind in kinds) + "\n"
    return "\n".join(parts)


def _row(kind: type[Event]) -> str:
    hints = get_type_hints(kind, include_extras=True)
    own = {name: hint for name, hint in hints.items() if hasattr(hint, "__metadata__")}
    shown = "<br>".join(f"`{name}`: {hint.__metadata__[0]}" for name, hint in own.items())
    meaning = " ".join((kind.__doc__ or "").split())
    return f"| `{kind.name}` | {logging.getLevelName(kind.level).lower()} | {kind.by} | {meaning} | {shown} |"


if __name__ == "__main__":
    print(document(), end="")  # noqa: T201
