"""A model version in memory: batches of it, and what becomes of them when memory runs out."""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import safetensors.torch
import structlog
import torch
from torch import Tensor

from pipeline.contracts.failures import ArtifactCorrupt, MemoryGone, OutOfMemory
from pipeline.model_store import Artifact
from scoring.architectures import build
from scoring.device import Device, Numbers
from scoring.failures import kind_of
from scoring.pieces import grouped

log = structlog.get_logger()
DEFAULT_BATCH = 64
SLICE_S = 0.5
"""A batch that runs longer keeps more urgent ones waiting, and gains nothing: on any device it is large by then."""
PACE_WEIGHT = 0.5
FIRST_BATCH = 4
"""Where rows differ in size: from there a batch is twice as large as any before it, at most."""
MOST_PADDED = 16_384
"""How large a group of pieces may be, padding included (tokens, for text), if the manifest does not say."""
BESIDE_S = 0.02
"""A batch of a model that computes for so long on the CPU does so beside claiming and settling others."""

Answer = float | OutOfMemory


class LoadedModel:
    """A model version on a device, ready to run."""

    def __init__(self, artifact: Artifact, device: Device) -> None:
        manifest = artifact.manifest
        self.name = f"{artifact.ref.name}@{artifact.ref.version}"
        self.device = device
        self.most: int = manifest.get("max_batch", DEFAULT_BATCH)
        self._row_s = 0.0
        self._tried = self.most
        self.overlaps = device.asynchronous
        """Whether it pays to claim and prepare one batch while another computes."""
        self._module = build(manifest["architecture"])
        try:
            self._module.load_state_dict(safetensors.torch.load(artifact.read("model.safetensors")))
        except (RuntimeError, safetensors.SafetensorError) as error:
            raise ArtifactCorrupt(f"{artifact.folder}: the weights do not fit the architecture: {error}") from error
        dtype = getattr(torch, manifest.get("dtype", {}).get(device.place.type, "float32"))
        self._module.to(device.place, dtype).eval()
        self._most_padded: int = manifest.get("max_padded", MOST_PADDED)
        self._example = b""
        self.warm_s = 0.0
        """How long the largest batch took when it was warm."""

    def warm_up(self, example: bytes) -> None:
        """Run an encoded example alone, then as the largest batch: the first request finds everything allocated.

        Raises what goes wrong with it; ArtifactCorrupt if it gives no numbers.
        """
        self._example = example
        for size in (1, self.most, self.most):
            began = time.monotonic()
            answers = self.run([example] * size)
            self.warm_s = time.monotonic() - began
            wrong = [answer for answer in answers if isinstance(answer, OutOfMemory) or not math.isfinite(answer)]
            if wrong:
                raise ArtifactCorrupt(f"{self.name} gives {wrong[0]} for its own example, in a batch of {size}")
        self.overlaps = self.device.asynchronous or self.warm_s > BESIDE_S
        _, sizes = self._module.pieces([example])
        if max(sizes) > 1:
            # Other rows may be much larger than the example: nobody knows how long they take.
            self._tried = FIRST_BATCH
        else:
            self.took(self.most, self.warm_s)

    def cold_sizes(self) -> list[Callable[[], None]]:
        """Calls that run the example in batches of the sizes in between: kernels are chosen by size, at first use."""
        return [partial(self._warm, 1 << power) for power in range(1, (self.most - 1).bit_length())]

    def _warm(self, size: int) -> None:
        try:
            self.run([self._example] * size)
        except Exception as error:  # noqa: BLE001 - nobody waits for it; a real batch of that size will tell
            log.warning("warm_up_failed", model=self.name, batch=size, reason=str(error))

    def run(self, bodies: Sequence[bytes]) -> list[Answer]:
        """The model's own number for each encoded row, in 0..1 (or none: NaN); OutOfMemory for one that does not fit.

        Raises what else goes wrong, in the words of ``contracts.failures``.
        """
        computation = Computation(self, bodies)
        computation.launch()
        return computation.collect()

    @property
    def batch_limit(self) -> int:
        """How many rows make a batch of about SLICE_S at most, by how long they have taken lately."""
        in_time = int(SLICE_S / self._row_s) if self._row_s else self.most
        return max(1, min(self.most, self._tried, in_time))

    def took(self, rows: int, seconds: float) -> None:
        """Learn how long a batch of requests took; examples are not like them."""
        self._tried = max(self._tried, 2 * rows)
        self._row_s += PACE_WEIGHT * (seconds / rows - self._row_s) if self._row_s else seconds / rows

    def staged(self, bodies: Sequence[bytes]) -> tuple[list[tuple[Tensor, ...]], list[int]]:
        """A batch on its way to the device: the arguments of each group of pieces, and the places of all pieces."""
        pieces, sizes = self._module.pieces(bodies)
        groups = list(grouped(sizes, self._most_padded))
        arguments = [self.device.stage(self._module.stage([pieces[place] for place in group])) for group in groups]
        return arguments, [place for group in groups for place in group]

    @torch.inference_mode()
    def computed(self, arguments: Sequence[tuple[Tensor, ...]], order: Sequence[int]) -> Tensor:
        """One number for each row (float64), on the device."""
        outputs = torch.cat([self._module(*of_group) for of_group in arguments])
        in_place = torch.empty_like(outputs)
        in_place[torch.tensor(order, device=outputs.device)] = outputs
        return self._module.raw(in_place)

    def piecemeal(self, bodies: Sequence[bytes]) -> list[Answer]:
        """The same when memory has run out: in halves, until what does not fit stands alone.

        A size at which all halves fit is remembered: larger groups are not tried again. MemoryGone if nothing fits.
        """
        pieces, sizes = self._module.pieces(bodies)
        outputs: dict[int, Tensor] = {}
        for group in grouped(sizes, self._most_padded):
            self._fit([(place, pieces[place]) for place in group], sizes[group[0]], outputs)
        if len(outputs) < len(pieces):
            self._check_memory()
        if not outputs:
            return [self._does_not_fit() for _ in bodies]
        none = torch.full_like(next(iter(outputs.values())), torch.nan)
        numbers = self._module.raw(torch.stack([outputs.get(place, none) for place in range(len(pieces))])).tolist()
        each = len(pieces) // len(bodies)
        fits = [all(each * row + part in outputs for part in range(each)) for row in range(len(bodies))]
        return [number if fit else self._does_not_fit() for number, fit in zip(numbers, fits, strict=True)]

    def _fit(self, group: Sequence[tuple[int, Any]], largest: int, outputs: dict[int, Tensor]) -> bool:
        """Compute a group into ``outputs``, by place, in as many parts as it takes; whether all of it fitted."""
        try:
            with torch.inference_mode():
                arguments = self.device.stage(self._module.stage([piece for _, piece in group]))
                computed = self._module(*arguments).cpu()
        except Exception as error:
            if kind_of(error) is not OutOfMemory:
                raise
        else:
            outputs.update(zip((place for place, _ in group), computed, strict=True))
            return True
        self.device.free_cache()
        if len(group) == 1:
            return False
        middle = len(group) // 2
        parts = [self._fit(part, largest, outputs) for part in (group[:middle], group[middle:])]
        size = largest * (len(group) - middle)
        if all(parts) and size < self._most_padded:
            log.warning("batch_size_learned", model=self.name, device=str(self.device.place), padded=size)
            self._most_padded = size
        return all(parts)

    def _check_memory(self) -> None:
        """If not even the model's example fits, it is not the rows' fault."""
        pieces, _ = self._module.pieces([self._example])
        fitted: dict[int, Tensor] = {}
        if not self._fit([(0, pieces[0])], 1, fitted):
            raise MemoryGone(f"{self.name}: nothing fits into the memory of {self.device.place} any more")

    def _does_not_fit(self) -> OutOfMemory:
        return OutOfMemory(f"this input does not fit into the memory of {self.device.place}, even alone")


class Computation:
    """One batch of one model: staged when made, then launched, then collected."""

    def __init__(self, model: LoadedModel, bodies: Sequence[bytes]) -> None:
        self._model = model
        self._bodies = bodies
        self._wait: Callable[[], Numbers] | None = None
        self._failure: Exception | None = None
        self._began = 0.0
        self.took_s = 0.0
        """How long it took, once it is collected; 0 if it failed or came piecemeal."""
        try:
            self._arguments, self._order = model.staged(bodies)
        except Exception as error:  # noqa: BLE001 - raised when it is collected
            self._failure = error

    def launch(self) -> None:
        """Begin to compute."""
        if self._failure is None:
            self._began = time.monotonic()
            try:
                self._wait = self._model.device.start(
                    lambda: self._model.computed(self._arguments, self._order), beside=self._model.overlaps
                )
            except Exception as error:  # noqa: BLE001 - raised when it is collected
                self._failure = error

    def collect(self) -> list[Answer]:
        """The numbers, as ``LoadedModel.run``."""
        try:
            if self._failure is not None:
                raise self._failure
            assert self._wait is not None, "launch first"
            numbers: list[Answer] = list(self._wait())
            self.took_s = time.monotonic() - self._began
            return numbers
        except Exception as error:
            kind = kind_of(error)
            if kind is None:
                raise
            if kind is not OutOfMemory:
                raise kind(f"{type(error).__name__}: {error}") from error
        self._model.device.free_cache()
        return self._model.piecemeal(self._bodies)
