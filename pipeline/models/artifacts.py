"""An artifact: a manifest and the files that it names, read and checked.

The manifest is checked against the digest that was pinned when the request was accepted, every file against the
manifest, both before they are parsed. Nothing that can run code is ever loaded: JSON and safetensors only.
"""

import errno
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pybreaker

from pipeline.breakers.calls import Breakers
from pipeline.contracts.failures import ArtifactCorrupt, ArtifactMissing, DependencyDown
from pipeline.contracts.lanes import ModelRef
from pipeline.contracts.strict_json import NotStrict, parse
from pipeline.models import manifests

MANIFEST = "manifest.json"
FORMAT = 1
REQUIRED = ("architecture", "input_schema", "files")
LARGEST_MANIFEST = 1 << 20
"""Bytes: a manifest is read whole before anything is known of it."""

PAUSE_S = 5.0
"""How long a model store that is down is left alone."""
DOWN = {
    errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ENODEV, errno.ENXIO, errno.ECONNREFUSED,
    errno.ECONNRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH,
}  # fmt: skip
"""What a mount reports when its server is gone. Every other error concerns one file."""


class ArtifactFiles:
    """Reads files of artifacts, behind a circuit breaker: the folder may be a mount that comes and goes."""

    def __init__(self, breakers: Breakers) -> None:
        self._breaker = breakers.breaker("model-store", pause_s=PAUSE_S, is_down=_is_down)

    def read(self, path: Path, *, size: int | None = None) -> bytes:
        """Returns a file's content; ArtifactMissing, DependencyDown.

        ArtifactCorrupt if it is not a regular file or not of ``size`` bytes. Without a size it is a manifest.
        """
        try:
            with self._breaker.calling():
                return _content(path, size)
        except pybreaker.CircuitBreakerError:
            raise DependencyDown("the model store", PAUSE_S) from None
        except OSError as error:
            raise ArtifactMissing(f"{path} cannot be read: {error.strerror}") from error


def _is_down(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in DOWN


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
class Artifact:
    """One version of one model on disk. ``manifest`` is the parsed document (see ``manifest.schema.json``)."""

    folder: Path
    digest: str
    manifest: dict[str, Any]
    files: ArtifactFiles

    @property
    def ref(self) -> ModelRef:
        """The name under which it is pinned."""
        document = self.manifest
        return ModelRef(document["name"], document["version"], self.digest, document.get("pool", ""))

    @property
    def fallback(self) -> ModelRef | None:
        """The model that answers when this one cannot, pinned by its digest. It reads the same encoded input."""
        pinned = self.manifest.get("fallback")
        return ModelRef(pinned["name"], pinned["version"], pinned["digest"]) if pinned else None

    def read(self, name: str) -> bytes:
        """Returns a file's content, checked against the manifest; ArtifactMissing, ArtifactCorrupt."""
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
        """Checks everything that can be checked without running it: the manifest and every file.

        ArtifactCorrupt, ArtifactMissing.
        """
        manifests.check(self.manifest)
        for name in self.manifest["files"]:
            self.read(name)


def read_artifact(folder: Path, name: str, version: str, files: ArtifactFiles) -> Artifact:
    """Reads the manifest in ``folder``, which must be that of ``name@version``; ArtifactMissing, ArtifactCorrupt."""
    path = folder / MANIFEST
    content = files.read(path)
    try:
        manifest = parse(content)
    except NotStrict as error:
        raise ArtifactCorrupt(f"{path}: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ArtifactCorrupt(f"{path} is not a manifest of format {FORMAT}")
    if (manifest.get("name"), manifest.get("version")) != (name, version):
        said = f"{manifest.get('name')}@{manifest.get('version')}"
        raise ArtifactCorrupt(f"{path} is not the manifest of {name}@{version}, but of {said}")
    missing = [part for part in REQUIRED if part not in manifest]
    if missing:
        raise ArtifactCorrupt(f"{path} lacks {', '.join(missing)}")
    return Artifact(folder, hashlib.sha256(content).hexdigest(), manifest, files)
