"""The proof of an artifact: its own example runs through the three stages, on the CPU, and gives the stated result.

Whatever is wrong with a model (weights that do not fit, results that are not numbers, features that its encoder does
not know) shows here, and not with the first request. The stages are the services' own code.
"""

import math
import multiprocessing
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import jsonschema_rs

from pipeline.contracts.failures import ArtifactCorrupt, StageFailure
from pipeline.contracts.lanes import ModelRef
from pipeline.contracts.work import Output
from pipeline.models.folder import Artifact, ModelStore, write_artifact
from pipeline.telemetry.logs import configure_logging

NEARLY = 1e-5
"""How far a number of the example's result may be from the one that the manifest states: processors differ."""
STATED = "example_result"


class _OnCpu(ModelStore):
    """A store whose models are loaded on demand and run on the CPU, whatever they need in service."""

    def versions(self) -> list[tuple[str, str]]:
        """Returns none: no model is loaded in advance."""
        return []

    def open(self, ref: ModelRef) -> Artifact:
        """Opens an artifact without the device that its manifest asks for."""
        artifact = super().open(ref)
        return replace(artifact, manifest={name: it for name, it in artifact.manifest.items() if name != "device"})


def result_of(root: Path, artifact: Artifact) -> dict[str, Any]:
    """Returns the result of an artifact's example; raises what goes wrong on the way (a StageFailure if it is known).

    The artifact's fallback, if it has one, reads the same encoded example, and must give a result as well.
    """
    from postprocess.service import Postprocess  # noqa: PLC0415 - scoring needs torch, which not everybody has
    from preprocess.service import Preprocess  # noqa: PLC0415
    from scoring.service import Scoring  # noqa: PLC0415

    store = _OnCpu(root)
    preprocess, postprocess = Preprocess(store), Postprocess(store)
    scoring = Scoring(store, preprocess.example)
    body = preprocess.example(artifact)

    def raw_of(ref: ModelRef) -> float:
        (answer,) = scoring.perform(ref, [body])
        if not isinstance(answer, Output):
            raise answer
        raw: float = answer.body
        return raw

    (result,) = postprocess.perform(artifact.ref, [raw_of(artifact.ref)])
    if artifact.fallback is not None:
        try:
            postprocess.perform(artifact.ref, [(raw_of(artifact.fallback), artifact.fallback.name)])
        except StageFailure as failure:
            raise ArtifactCorrupt(f"its fallback does not stand in for it: {failure}") from failure
    found: dict[str, Any] = result.body
    return found


def prove(root: Path, artifact: Artifact) -> None:
    """Checks the result of an artifact's example against its manifest; ArtifactCorrupt, or what a stage raises."""
    result = result_of(root, artifact)
    if not all(math.isfinite(result[name]) for name in ("score", "raw")):
        raise ArtifactCorrupt(f"its example's result is no number: {result}")
    stated: Mapping[str, Any] = artifact.manifest.get(STATED, {})
    for name, expected in stated.items():
        same = result[name] == expected if isinstance(expected, str) else abs(result[name] - expected) <= NEARLY
        if not same:
            raise ArtifactCorrupt(
                f"its example gives the {name} {result[name]!r}, and the manifest states {expected!r}"
            )
    output = artifact.manifest.get("output_schema")
    if output is not None:
        for error in jsonschema_rs.validator_for(dict(output), offline=True).iter_errors(result):
            raise ArtifactCorrupt(f"its example's result is not valid by output_schema: {error.message[:160]}")


def with_result(manifest: dict[str, Any], files: Mapping[str, bytes]) -> dict[str, Any]:
    """Returns the manifest with the result of its example added, for ``write_artifact`` with the same files."""
    with tempfile.TemporaryDirectory(prefix="scoreline-") as folder:
        root = Path(folder)
        alone = {name: it for name, it in manifest.items() if name != "fallback"}
        write_artifact(root, alone, files)
        artifact = ModelStore(root).load(manifest["name"], manifest["version"])
        artifact.check()
        return {**manifest, STATED: result_of(root, artifact)}


class Prover:
    """Proves artifacts in a separate process: one that crashes or hangs is refused, and does not hold up the others."""

    def __init__(self, root: Path, limit_s: float) -> None:
        """``limit_s``: how long one artifact may take, including the start of its process."""
        self._root = root
        self._limit_s = limit_s

    def __call__(self, _: ModelStore, artifacts: Sequence[Artifact]) -> Iterator[str | None]:
        """Yields, for each artifact in order, why it is refused; None if it is not."""
        done = 0
        while done < len(artifacts):
            for reason in self._answers(artifacts[done:]):
                yield reason
                done += 1

    def _answers(self, artifacts: Sequence[Artifact]) -> Iterator[str | None]:
        """Yields the same, up to the first artifact that ends the process in which they are proved."""
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe(duplex=False)
        names = [(artifact.folder.parent.name, artifact.folder.name) for artifact in artifacts]
        process = context.Process(target=_prove_all, args=(there, self._root, names), daemon=True)
        process.start()
        there.close()
        try:
            for _ in artifacts:
                if not here.poll(self._limit_s):
                    yield f"its example has not come through after {self._limit_s:g} s"
                    return
                try:
                    reason: str | None = here.recv()
                except EOFError:
                    process.join()
                    yield f"the process that ran its example has ended by itself (exit code {process.exitcode})"
                    return
                yield reason
        finally:
            process.kill()
            process.join()
            here.close()


def _prove_all(answers: Connection, root: Path, names: Sequence[tuple[str, str]]) -> None:
    configure_logging("publish", level="ERROR")
    for name, version in names:
        reason = None
        try:
            prove(root, ModelStore(root).load(name, version))
        except (KeyboardInterrupt, SystemExit):
            return
        except ImportError as error:
            reason = f"it cannot be proved here ({error}): publish where scoring runs, with the extra `scoring`"
        except BaseException as failure:  # noqa: BLE001 - a panic in Rust code is no Exception
            kind = "" if isinstance(failure, StageFailure) else f"{type(failure).__name__}: "
            reason = f"{kind}{failure}"
        answers.send(reason)
