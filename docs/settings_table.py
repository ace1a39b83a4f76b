"""Writes the table of docs/settings.md from the settings themselves: ``python docs/settings_table.py``.

A test holds the page against this.
"""

from pathlib import Path
from typing import Any

from pipeline.settings import PREFIX, REPOSITORY, Settings

PAGE = Path(__file__).parent / "settings.md"
BEGIN, END = "<!-- table: docs/settings_table.py -->\n", "<!-- end of table -->\n"


def table() -> str:
    """The table in Markdown, in the order of the settings."""
    rows = [f"| `{PREFIX}...` | default | what |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        rows.append(f"| `{name.upper()}` | {_shown(field.default)} | {field.description} |")
    return "\n".join(rows) + "\n"


def _shown(default: Any) -> str:
    if default is None or default == frozenset():
        return "none"
    if isinstance(default, Path):
        return f"`{default.relative_to(REPOSITORY)}/`"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def with_table(page: str) -> str:
    """The page with the table as it must be."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
