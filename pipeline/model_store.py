"""The model store: artifacts in a folder, ``MODEL/VERSION/`` with a manifest and the files it names.

Every file is checked against the manifest, and the manifest against the digest pinned at accept, before it is
parsed. Nothing that can run code is ever loaded: JSON and safetensors only.
"""

import errno
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pybreaker

from pipeline.contracts.failures import ArtifactCorrupt, ArtifactMissing, OutsideDown
from pipeline.contracts.lanes import MODEL_NAME, MODEL_VERSION, ModelRef
from pipeline.outside import Outside

MANIFEST = "manifest.json"
FORMAT = 1
REQUIRED = ("architecture", "input_schema", "files")


PAUSE_S = 5.0
"""How long a folder that cannot be read is left alone."""
DOWN = {
    errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ENODEV, errno.ENXIO, errno.ECONNREFUSED,
    errno.ECONNRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH,
}  # fmt: skip
"""What a mount answers whose server is gone. Everything else is about one file."""


class _Folder:
    """Reads files; behind a circuit breaker, for the folder may be a mount that comes and goes."""

    def __init__(self, outside: Outside) -> None:
        self._breaker = outside.breaker("model-store", pause_s=PAUSE_S, is_down=_is_down)

    def read(self, path: Path) -> bytes:
        """A file's content; ArtifactMissing, OutsideDown."""
        try:
            with self._breaker.calling():
                return path.read_bytes()
        except pybreaker.CircuitBreakerError:
            raise OutsideDown("the model store", PAUSE_S) from None
        except OSError as error:
            raise ArtifactMissing(f"{path} cannot be read: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class Artifact:
    """One version of one model on disk. ``manifest`` is the parsed document (see ``scoring.training``)."""

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
        content = self.files.read(self.folder / name)
        if len(content) != expected["size"] or hashlib.sha256(content).hexdigest() != expected["sha256"]:
            raise ArtifactCorrupt(
                f"{self.folder / name} is not the file that the manifest names (SHA-256 differs): restore the artifact"
            )
        return content


def _is_down(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in DOWN


class ModelStore:
    """Reads artifacts from a folder."""

    def __init__(self, root: Path, outside: Outside | None = None) -> None:
        self._root = root
        self._folder = _Folder(outside or Outside())

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
        """Every (name, version) in the store, version 9 before version 10."""
        folders = [path.parent for path in self._root.glob(f"*/*/{MANIFEST}")]
        return [(folder.parent.name, folder.name) for folder in sorted(folders, key=_natural)]

    def all(self) -> list[Artifact]:
        """Every version in the store; ArtifactCorrupt if any manifest is broken."""
        return [self.load(name, version) for name, version in self.versions()]

    def load(self, name: str, version: str) -> Artifact:
        """A version, whatever its digest; ArtifactMissing, ArtifactCorrupt."""
        # The names come from a record: they must not lead out of the folder.
        if not MODEL_NAME.match(name) or not MODEL_VERSION.match(version):
            raise ArtifactMissing(f"{name!r}@{version!r} cannot be the name of a model version")
        folder = self._root / name / version
        content = self._folder.read(folder / MANIFEST)
        try:
            manifest = json.loads(content)
        except ValueError as error:
            raise ArtifactCorrupt(f"{folder / MANIFEST} is not JSON: {error}") from error
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise ArtifactCorrupt(f"{folder / MANIFEST} is not a manifest of format {FORMAT}")
        if (manifest.get("name"), manifest.get("version")) != (name, version):
            raise ArtifactCorrupt(f"{folder / MANIFEST} is not the manifest of {name}@{version}")
        missing = [part for part in REQUIRED if part not in manifest]
        if missing:
            raise ArtifactCorrupt(f"{folder / MANIFEST} lacks {', '.join(missing)}")
        return Artifact(folder, hashlib.sha256(content).hexdigest(), manifest, self._folder)


def write_artifact(root: Path, manifest: dict[str, Any], files: Mapping[str, bytes]) -> ModelRef:
    """Write a version into a model store: its files, then the manifest that names them. Its name, with its digest."""
    listed = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)} for name, content in files.items()
    }
    folder = root / manifest["name"] / manifest["version"]
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / MANIFEST).write_text(json.dumps({"format": FORMAT, **manifest, "files": listed}, indent=1) + "\n")
    return ModelStore(root).load(manifest["name"], manifest["version"]).ref


def _natural(folder: Path) -> tuple[str, list[tuple[int, str]]]:
    """Sort key that puts version 10 after version 9."""
    parts = folder.name.replace("-", ".").split(".")
    return folder.parent.name, [(int(part), "") if part.isdigit() else (0, part) for part in parts]
