"""What a health port says of the process behind it."""

import pytest

from pipeline.service.health import Recent
from tests.conftest import eventually


def test_a_check_is_made_once_however_many_ask_and_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def check() -> str:
        asked.append(1)
        return f"answer {len(asked)}"

    recent = Recent(check)
    assert {recent() for _ in range(10)} == {"answer 1"}
    monkeypatch.setattr(Recent, "HOLDS_S", 0.0)
    assert recent() == "answer 2"
    eventually(lambda: recent() != "answer 2")
