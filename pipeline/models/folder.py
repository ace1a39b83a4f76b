"""The model store: artifacts in a folder, ``MODEL/VERSION/`` with a manifest and the files it names.

Every file is checked against the manifest, and the manifest against the digest pinned at accept, before it is
parsed. Nothing that can run code is ever loaded: JSON and safetensors only.
"""

import errno
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

import pybreaker

from pipeline.breakers.calls import Breakers
from pipeline.contracts.failures import ArtifactCorrupt, ArtifactMissing, DependencyDown, StageFailure
from pipeline.contracts.lanes import MODEL_NAME, MODEL_VERSION, ModelRef
from pipeline.contracts.strict_json import NotStrict, parse
from pipeline.models import manifests

MANIFEST = "manifest.json"
FORMAT = 1
REQUIRED = ("architecture", "input_schema", "files")
LARGEST_MANIFEST = 1 << 20
"""Bytes: a manifest is read whole before anything is known of it."""

PAUSE_S = 5.0
"""How long a folder that cannot be read is left alone."""
DOWN = {
    errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ENODEV, errno.ENXIO, errno.ECONNREFUSED,
    errno.ECONNRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH,
}  # fmt: skip
"""What a mount answers whose server is gone. Everything else is about one file."""


class _Folder:
    """Reads files; behind a circuit breaker, for the folder may be a mount that comes and goes."""

    def __init__(self, breakers: Breakers) -> None:
        self._breaker = breakers.breaker("model-store", pause_s=PAUSE_S, is_down=_is_down)

    def read(self, path: Path, *, size: int | None = None) -> bytes:
        """A file's content; ArtifactMissing, DependencyDown.

        ArtifactCorrupt for what is no regular file, or not of ``size`` bytes; without a size, it is a manifest.
        """
        try:
            with self._breaker.calling():
                return _content(path, size)
        except pybreaker.CircuitBreakerError:
            raise DependencyDown("the model store", PAUSE_S) from None
        except OSError as error:
            raise ArtifactMissing(f"{path} cannot be read: {error.strerror}") from error


def _content(path: Path, size: int | None) -> bytes:
    # Opening a pipe must not wait for its other end.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ArtifactCorrupt(f"{path} is not a regular file")
        if size is None and found.st_size > LARGEST_MANIFEST:
            raise ArtifactCorrupt(f"{path} is larger than a manifest may be ({LARGEST_MANIFEST} bytes)")
        if size is not None and found.st_size != size:
            raise ArtifactCorrupt(
                f"{path} is not the file that the manifest names (its size is {found.st_size}, not {size}): "
                "restore the artifact"
            )
        return file.read(LARGEST_MANIFEST if size is None else size)


@dataclass(frozen=True, slots=True)
class Refused:
    """Something in a model store that is no model version, or none that can be served."""

    place: str
    """Below the store's folder: ``MODEL/VERSION``, or whatever stands there."""
    reason: str


@dataclass(frozen=True, slots=True)
class Artifact:
    """One version of one model on disk. ``manifest`` is the parsed document (see ``manifest.schema.json``)."""

    folder: Path
    digest: str
    manifest: dict[str, Any]
    files: _Folder

    @property
    def ref(self) -> ModelRef:
        """The name under which it is pinned."""
        document = self.manifest
        return ModelRef(document["name"], document["version"], self.digest, document.get("pool", ""))

    @property
    def fallback(self) -> ModelRef | None:
        """The model that stands in for this one, pinned by its digest. It reads the same encoded input."""
        pinned = self.manifest.get("fallback")
        return ModelRef(pinned["name"], pinned["version"], pinned["digest"]) if pinned else None

    def read(self, name: str) -> bytes:
        """A file's content, checked against the manifest; ArtifactMissing, ArtifactCorrupt."""
        expected = self.manifest["files"].get(name)
        if expected is None:
            raise ArtifactCorrupt(f"the manifest of {self.ref.name}@{self.ref.version} names no file {name!r}")
        content = self.files.read(self.folder / name, size=expected["size"])
        if hashlib.sha256(content).hexdigest() != expected["sha256"]:
            raise ArtifactCorrupt(
                f"{self.folder / name} is not the file that the manifest names (SHA-256 differs): restore the artifact"
            )
        return content

    def check(self) -> None:
        """Check all that can be told without running it: the manifest, and every file; ArtifactCorrupt and -Missing."""
        manifests.check(self.manifest)
        for name in self.manifest["files"]:
            self.read(name)


def _is_down(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in DOWN


class ModelStore:
    """Reads artifacts from a folder."""

    def __init__(self, root: Path, breakers: Breakers | None = None) -> None:
        self._root = root
        self._folder = _Folder(breakers or Breakers())

    def open(self, ref: ModelRef) -> Artifact:
        """The pinned version, its manifest checked against the pinned digest; ArtifactMissing, ArtifactCorrupt."""
        artifact = self.load(ref.name, ref.version)
        if artifact.digest != ref.digest:
            raise ArtifactCorrupt(
                f"{ref.name}@{ref.version} was pinned with digest {ref.digest[:12]}, "
                f"the manifest in {self._root} has {artifact.digest[:12]}"
            )
        return artifact

    def versions(self) -> list[tuple[str, str]]:
        """Every (name, version) whose manifest is there, version 9 before version 10; none if the store is away."""
        try:
            return [place for place in self._places() if not isinstance(place, Refused)]
        except ArtifactMissing:
            return []

    def all(self) -> list[Artifact]:
        """Every version whose manifest can be read; ArtifactMissing if the store's folder cannot."""
        return self.scan()[0]

    def scan(self) -> tuple[list[Artifact], list[Refused]]:
        """Every version whose manifest can be read, and whatever else stands in the store, with the reason.

        ArtifactMissing if the store's folder cannot be read.
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
        """As ``Artifact.check``, and the same for its fallback: it must be here, as it was pinned."""
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
            raise ArtifactMissing(f"the model store {self._root} cannot be read: {error.strerror}") from error
        for model in models:
            if reason := _no_folder(model, "MODEL") or _no_name(model, MODEL_NAME, "a model"):
                yield Refused(model.name, reason)
                continue
            try:
                versions = sorted(model.iterdir(), key=_natural)
            except OSError as error:
                yield Refused(model.name, f"cannot be read: {error.strerror}")
                continue
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

    def load(self, name: str, version: str) -> Artifact:
        """A version, whatever its digest; ArtifactMissing, ArtifactCorrupt."""
        # The names come from a record: they must not lead out of the folder.
        if not MODEL_NAME.fullmatch(name) or not MODEL_VERSION.fullmatch(version):
            raise ArtifactMissing(f"{name!r}@{version!r} cannot be the name of a model version")
        folder = self._root / name / version
        content = self._folder.read(folder / MANIFEST)
        try:
            manifest = parse(content)
        except NotStrict as error:
            raise ArtifactCorrupt(f"{folder / MANIFEST}: {error}") from error
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise ArtifactCorrupt(f"{folder / MANIFEST} is not a manifest of format {FORMAT}")
        if (manifest.get("name"), manifest.get("version")) != (name, version):
            said = f"{manifest.get('name')}@{manifest.get('version')}"
            raise ArtifactCorrupt(f"{folder / MANIFEST} is not the manifest of {name}@{version}, but of {said}")
        missing = [part for part in REQUIRED if part not in manifest]
        if missing:
            raise ArtifactCorrupt(f"{folder / MANIFEST} lacks {', '.join(missing)}")
        return Artifact(folder, hashlib.sha256(content).hexdigest(), manifest, self._folder)


class ArtifactExists(Exception):
    """The version is there already, with another content: requests may be pinned to it."""


def write_artifact(
    root: Path, manifest: dict[str, Any], files: Mapping[str, bytes], *, replace: bool = False
) -> ModelRef:
    """Write a version into a model store: its files, and the manifest that names them. Its name, with its digest.

    It is there whole or not at all. ArtifactExists if it is there with another content, unless told to ``replace`` it.
    """
    listed = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)} for name, content in files.items()
    }
    document = json.dumps({"format": FORMAT, **manifest, "files": listed}, indent=1, allow_nan=False) + "\n"
    folder = root / manifest["name"] / manifest["version"]
    folder.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(folder) and not replace:
        there = ModelStore(root)
        same = _digest_of(there, manifest) == hashlib.sha256(document.encode()).hexdigest()
        if not same:
            raise ArtifactExists(
                f"{manifest['name']}@{manifest['version']} is in {root} already, with another content: "
                "choose another version (--version)"
            )
        return there.load(manifest["name"], manifest["version"]).ref
    # Beside the folder, by a name that no version has: what reads the store meanwhile does not take it for one.
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
    """The digest of the version that is there, if all of it is as its manifest says."""
    try:
        artifact = store.load(manifest["name"], manifest["version"])
        artifact.check()
    except StageFailure:
        return None
    return artifact.digest


def _no_folder(path: Path, kind: str) -> str | None:
    """Why this is no folder; None if it is one."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return "a link that leads nowhere" if path.is_symlink() else f"cannot be read: {error.strerror}"
    return None if stat.S_ISDIR(mode) else f"not a folder: expected {kind}/"


def _no_name(path: Path, pattern: re.Pattern[str], of: str) -> str | None:
    return None if pattern.fullmatch(path.name) else f"not the name of {of} ({pattern.pattern})"


def _natural(folder: Path) -> list[tuple[int, str]]:
    """Sort key that puts version 10 after version 9."""
    parts = folder.name.replace("-", ".").split(".")
    return [(int(part), "") if part.isdecimal() and len(part) < 20 else (0, part) for part in parts]
