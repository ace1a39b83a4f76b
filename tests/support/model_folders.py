"""Folders of models that are not as they should be."""

import os
import shutil
from pathlib import Path


def strays(models: Path) -> dict[str, str]:
    """One of each kind, by its place, and what is said of it."""
    version = models / "credit-default" / "1"
    (models / ".ipynb_checkpoints").mkdir()
    (models / "credit-default" / ".ipynb_checkpoints").mkdir()
    shutil.copytree(version, models / "credit-default" / "1.bak")
    shutil.copytree(version, models / "credit-default" / "half", ignore=shutil.ignore_patterns("manifest.json"))
    shutil.copytree(version, models / "copy-of-credit-default" / "1")
    (models / "credit-default" / "latest").symlink_to("1")
    (models / "credit-default" / "gone").symlink_to("nowhere")
    (models / "loop").symlink_to("loop")
    (models / "README.md").write_text("our models")
    (models / "credit-default" / "notes.txt").write_text("of yesterday")
    (models / "empty").mkdir()
    shutil.copytree(version, models / "credit-default" / "pipe", ignore=shutil.ignore_patterns("manifest.json"))
    os.mkfifo(models / "credit-default" / "pipe" / "manifest.json")
    (models / "credit-default" / "zero").mkdir()
    (models / "credit-default" / "zero" / "manifest.json").symlink_to("/dev/zero")
    (models / "credit-default" / "dangling").mkdir()
    (models / "credit-default" / "dangling" / "manifest.json").symlink_to("nowhere")
    (models / "credit-default" / "²").mkdir()
    return {
        ".ipynb_checkpoints": "not the name of a model",
        "credit-default/.ipynb_checkpoints": "not the name of a version",
        "credit-default/1.bak": "is not the manifest of credit-default@1.bak, but of credit-default@1",
        "credit-default/half": "has no manifest.json: is it half a copy?",
        "copy-of-credit-default/1": "but of credit-default@1",
        "credit-default/latest": "but of credit-default@1",
        "credit-default/gone": "a link that leads nowhere",
        "loop": "a link that leads nowhere",
        "README.md": "not a folder: expected MODEL/",
        "credit-default/notes.txt": "not a folder: expected VERSION/",
        "empty": "holds no version",
        "credit-default/pipe": "is not a regular file",
        "credit-default/zero": "is not a regular file",
        "credit-default/dangling": "cannot be read: No such file",
        "credit-default/²": "not the name of a version",
    }
