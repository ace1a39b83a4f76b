"""A local stack over a model store that has no model: told at once, with the folder and what is wrong in it."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.settings import SHIPPED_MODELS, Settings, read_settings
from pipeline.stack import StackError
from pipeline.stack.local import LocalStack


def over(models: Path) -> Settings:
    return read_settings({"SCORELINE_MODEL_STORE": str(models)})


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary folders are made. Its path is short: there is a socket in a stack's folder."""
    with tempfile.TemporaryDirectory(prefix="sl-") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def test_an_empty_model_store_is_refused_before_anything_is_started(tmp_path: Path, temporary: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    with pytest.raises(StackError, match=f"{models} holds no model"):
        LocalStack(over(models))
    assert not list(temporary.iterdir())


def test_a_folder_that_is_not_there_is_refused_before_anything_is_started(tmp_path: Path, temporary: Path) -> None:
    with pytest.raises(StackError, match=f"{tmp_path / 'models'} cannot be read"):
        LocalStack(over(tmp_path / "models"))
    assert not list(temporary.iterdir())


def test_what_else_is_in_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "credit-default" / "1").mkdir(parents=True)
    with pytest.raises(StackError, match=r"credit-default/1: has no manifest\.json"):
        LocalStack(over(tmp_path))


def test_a_store_of_which_nothing_can_be_released_is_not_waited_for(tmp_path: Path, temporary: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(SHIPPED_MODELS / "credit-default-logistic", models / "credit-default-logistic")
    (models / "credit-default-logistic" / "1" / "model.safetensors").write_bytes(b"short")
    with (
        pytest.raises(
            StackError, match=r"holds no model that can be served.*\n  credit-default-logistic/1: .*its size"
        ),
        LocalStack(over(models)),
    ):
        pass
    assert not list(temporary.iterdir())
