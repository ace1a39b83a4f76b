"""The model store: a folder of artifacts, ``MODEL/VERSION/``."""

import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.breakers.calls import Breakers
from pipeline.contracts.failures import ArtifactCorrupt, ArtifactMissing, StageFailure
from pipeline.contracts.lanes import MODEL_NAME, MODEL_VERSION, ModelRef
from pipeline.contracts.releases import VersionConflict
from pipeline.models.artifacts import FORMAT, MANIFEST, Artifact, ArtifactFiles, read_artifact


@dataclass(frozen=True, slots=True)
class Refused:
    """An entry of a model store that is not a model version, or one that cannot be served."""

    place: str
    """Relative to the model store: ``MODEL/VERSION``, or whatever is there instead."""
    reason: str


class ModelStore:
    """Reads artifacts from a folder."""

    def __init__(self, root: Path, breakers: Breakers | None = None) -> None:
        self._root = root
        self._files = ArtifactFiles(breakers or Breakers())

    def open(self, ref: ModelRef) -> Artifact:
        """Returns the pinned version, checked against the pinned digest; ArtifactMissing, ArtifactCorrupt."""
        artifact = self.load(ref.name, ref.version)
        if artifact.digest != ref.digest:
            raise ArtifactCorrupt(
                f"{ref.name}@{ref.version} was pinned with digest {ref.digest[:12]}, "
                f"the manifest in {self._root} has {artifact.digest[:12]}"
            )
        return artifact

    def load(self, name: str, version: str) -> Artifact:
        """Returns a version, whatever its digest; ArtifactMissing, ArtifactCorrupt."""
        # The names come from a record: they must not lead out of the folder.
        if not MODEL_NAME.fullmatch(name) or not MODEL_VERSION.fullmatch(version):
            raise ArtifactMissing(f"{name!r}@{version!r} cannot be the name of a model version")
        return read_artifact(self._root / name / version, name, version, self._files)

    def versions(self) -> list[tuple[str, str]]:
        """Returns every (name, version) that has a manifest, version 9 before 10; none if the folder cannot be read."""
        try:
            return [place for place in self._places() if not isinstance(place, Refused)]
        except ArtifactMissing:
            return []

    def all(self) -> list[Artifact]:
        """Returns every version whose manifest can be read; ArtifactMissing if the folder cannot."""
        return self.scan()[0]

    def scan(self) -> tuple[list[Artifact], list[Refused]]:
        """Returns every version whose manifest can be read, and every other entry with the reason.

        ArtifactMissing if the folder cannot be read.
        """
        artifacts: list[Artifact] = []
        refused: list[Refused] = []
        for place in self._places():
            if isinstance(place, Refused):
                refused.append(place)
                continue
            try:
                artifacts.append(self.load(*place))
            except StageFailure as failure:
                refused.append(Refused("/".join(place), str(failure)))
        return artifacts, refused

    def check(self, artifact: Artifact) -> None:
        """Checks an artifact as ``Artifact.check`` does, and its fallback: it must be here, as it was pinned."""
        artifact.check()
        if artifact.fallback is not None:
            try:
                self.open(artifact.fallback).check()
            except StageFailure as failure:
                raise ArtifactCorrupt(f"the fallback cannot stand in: {failure}") from failure

    def _places(self) -> Iterator[tuple[str, str] | Refused]:
        try:
            models = sorted(self._root.iterdir())
        except OSError as error:
            raise ArtifactMissing(
                f"the model store {self._root} cannot be read: {error.strerror}; "
                "set SCORELINE_MODEL_STORE to a folder of artifacts, MODEL/VERSION/"
            ) from error
        for model in models:
            yield from _versions_of(model)


def _versions_of(model: Path) -> Iterator[tuple[str, str] | Refused]:
    if reason := _no_folder(model, "MODEL") or _no_name(model, MODEL_NAME, "a model"):
        yield Refused(model.name, reason)
        return
    try:
        versions = sorted(model.iterdir(), key=_natural)
    except OSError as error:
        yield Refused(model.name, f"cannot be read: {error.strerror}")
        return
    if not versions:
        yield Refused(model.name, "holds no version")
    for version in versions:
        place = f"{model.name}/{version.name}"
        if reason := _no_folder(version, "VERSION") or _no_name(version, MODEL_VERSION, "a version"):
            yield Refused(place, reason)
        elif not os.path.lexists(version / MANIFEST):
            unreadable = not os.access(version, os.R_OK | os.X_OK)
            yield Refused(place, "cannot be read" if unreadable else f"has no {MANIFEST}: is it half a copy?")
        else:
            yield model.name, version.name


class ArtifactExists(VersionConflict):
    """The model store has the version, with another content."""


def write_artifact(
    root: Path, manifest: dict[str, Any], files: Mapping[str, bytes], *, replace: bool = False
) -> ModelRef:
    """Writes a version into a model store, its files and the manifest that names them; returns its digest-pinned name.

    It is written whole or not at all. ArtifactExists if it exists with another content, unless told to ``replace`` it.
    """
    listed = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)} for name, content in files.items()
    }
    document = json.dumps({"format": FORMAT, **manifest, "files": listed}, indent=1, allow_nan=False) + "\n"
    folder = root / manifest["name"] / manifest["version"]
    folder.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(folder) and not replace:
        existing = ModelStore(root)
        same = _digest_of(existing, manifest) == hashlib.sha256(document.encode()).hexdigest()
        if not same:
            raise ArtifactExists(
                f"{manifest['name']}@{manifest['version']} is in {root} already, with another content: "
                "choose another version (--version)"
            )
        return existing.load(manifest["name"], manifest["version"]).ref
    # Beside the folder, by a name that no version has: a process that reads the model store meanwhile skips it.
    beside = folder.parent / f".{manifest['version']}.{secrets.token_hex(4)}"
    beside.mkdir()
    try:
        for name, content in {**files, MANIFEST: document.encode()}.items():
            (beside / name).write_bytes(content)
        if os.path.lexists(folder):
            before = folder.rename(beside.with_suffix(".before"))
            beside.rename(folder)
            shutil.rmtree(before)
        else:
            beside.rename(folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return ModelStore(root).load(manifest["name"], manifest["version"]).ref


def _digest_of(store: ModelStore, manifest: Mapping[str, Any]) -> str | None:
    """Returns the digest of the existing version, if all of it is as its manifest says."""
    try:
        artifact = store.load(manifest["name"], manifest["version"])
        artifact.check()
    except StageFailure:
        return None
    return artifact.digest


def _no_folder(path: Path, kind: str) -> str | None:
    """Returns why this is not a folder; None if it is one."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return "a link that leads nowhere" if path.is_symlink() else f"cannot be read: {error.strerror}"
    return None if stat.S_ISDIR(mode) else f"not a folder: expected {kind}/"


def _no_name(path: Path, pattern: re.Pattern[str], of: str) -> str | None:
    return None if pattern.fullmatch(path.name) else f"not the name of {of} ({pattern.pattern})"


def _natural(folder: Path) -> list[tuple[int, str]]:
    """Returns a sort key that puts version 10 after version 9."""
    parts = folder.name.replace("-", ".").split(".")
    return [(int(part), "") if part.isdecimal() and len(part) < 20 else (0, part) for part in parts]
