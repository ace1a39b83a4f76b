"""A model version in memory: batches of it, and what becomes of them when memory runs out."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from pipeline.contracts.failures import ArtifactCorrupt, MemoryGone, OutOfMemory
from pipeline.models.folder import Artifact
from pipeline.telemetry.events.stages import AnswersDifferByBlock, BatchSizeLearned, WarmUpFailed
from scoring.architectures import build
from scoring.device import Device, Numbers
from scoring.failures import kind_of
from scoring.pieces import Block, blocks

DEFAULT_BATCH = 64
SLICE_S = 0.5
"""A batch that runs longer keeps more urgent ones waiting, and gains nothing: on any device it is large by then."""
PACE_WEIGHT = 0.5
FIRST_BATCH = 4
"""Where rows differ in size: from there a batch is twice as large as any before it, at most."""
MOST_PADDED = 16_384
"""How large a block of pieces may be, padding included (tokens, for text), if the manifest does not say."""
NUMBERS = 64
"""Rows whose numbers are made of their pieces' outputs together: always as many, for the same bits."""
DECIMALS = {torch.float64: 6, torch.float32: 5, torch.bfloat16: 3, torch.float16: 3}
"""Of a number, on a device that is not exact. (Kernels for different shapes differ by 1.2e-7 in the relevance model's
float32, and by 8e-4 in its bfloat16; there all blocks of a size have one shape, and what is left is less.)"""
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
        self._decimals = None if device.exact else DECIMALS[dtype]
        self._varied = device.exact  # else all blocks of a size have one shape
        self._most_padded: int = manifest.get("max_padded", MOST_PADDED)
        self._example = b""
        self._example_answer: Answer = math.nan
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
            if size == 1:
                (self._example_answer,) = answers
            self._compare(answers)
        self.overlaps = self.device.asynchronous or self.warm_s > BESIDE_S
        _, sizes = self._module.pieces([example])
        if max(sizes) > 1:
            # Other rows may be much larger than the example: nobody knows how long they take.
            self._tried = FIRST_BATCH
        else:
            self.took(self.most, self.warm_s)

    def cold_sizes(self) -> list[Callable[[], None]]:
        """Calls that run the example in blocks of the sizes in between: kernels are chosen by size, at first use."""
        least, rows = self._module.least, self._module.rows
        between = range(least.bit_length(), (min(self.most, rows) - 1).bit_length()) if self._varied else ()
        return [partial(self._warm, 1 << power) for power in between]

    def _warm(self, size: int) -> None:
        try:
            self._compare(self.run([self._example] * size))
        except Exception as error:  # noqa: BLE001 - nobody waits for it; a real batch of that size will tell
            WarmUpFailed(model=self.name, batch=size, reason=str(error)).emit()

    def _compare(self, answers: Sequence[Answer]) -> None:
        """Blocks are of one size only from here on, if the example's answer depends on their size or its place."""
        if self._varied and any(answer != self._example_answer for answer in answers):
            self._varied = False
            AnswersDifferByBlock(model=self.name, device=str(self.device.place), batch=len(answers)).emit()

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
        # Fewer rows than the smallest block has take as long as it.
        in_time = max(self._module.least, int(SLICE_S / self._row_s)) if self._row_s else self.most
        return max(1, min(self.most, self._tried, in_time))

    def took(self, rows: int, seconds: float) -> None:
        """Learn how long a batch of requests took; examples are not like them."""
        self._tried = max(self._tried, 2 * rows)
        self._row_s += PACE_WEIGHT * (seconds / rows - self._row_s) if self._row_s else seconds / rows

    def staged(self, bodies: Sequence[bytes]) -> "Staged":
        """A batch on its way to the device."""
        pieces, sizes = self._module.pieces(bodies)
        parts = list(self._blocks(sizes))
        arguments = [
            self.device.stage(self._module.stage([pieces[place] for place in block.places], block.size, block.rows))
            for block in parts
        ]
        return Staged(parts, arguments, len(pieces), len(bodies))

    def _blocks(self, sizes: Sequence[int]) -> Iterator[Block]:
        return blocks(sizes, self._module.rows, self._module.least, self._most_padded, varied=self._varied)

    @torch.inference_mode()
    def computed(self, batch: "Staged") -> Tensor:
        """One number for each row (float64), on the device."""
        outputs = [
            self._module(*arguments)[: len(block.places)]
            for block, arguments in zip(batch.blocks, batch.arguments, strict=True)
        ]
        return self._numbers(torch.cat(outputs), [place for block in batch.blocks for place in block.places], batch)

    def _numbers(self, outputs: Tensor, places: Sequence[int], batch: "Staged") -> Tensor:
        """The number of each row, from outputs of the pieces at these places; a row that lacks one has any number."""
        each = batch.pieces // batch.rows
        filled = -(-batch.rows // NUMBERS) * NUMBERS
        in_place = outputs.new_zeros(filled * each, *outputs.shape[1:])
        in_order = places == list(range(len(places)))
        in_place[slice(len(places)) if in_order else torch.tensor(places, device=outputs.device)] = outputs
        return torch.cat([self._module.raw(part) for part in in_place.split(NUMBERS * each)])[: batch.rows]

    def rounded(self, numbers: Numbers) -> Numbers:
        """To as many decimals as this device gives a row wherever it is computed; on a CPU as they are."""
        return numbers if self._decimals is None else [round(number, self._decimals) for number in numbers]

    def piecemeal(self, bodies: Sequence[bytes]) -> list[Answer]:
        """The same when memory has run out: in halves, until what does not fit stands alone.

        A size at which all halves fit is remembered: larger blocks are not tried again. MemoryGone if nothing fits.
        """
        pieces, sizes = self._module.pieces(bodies)
        outputs: dict[int, Tensor] = {}
        for block in self._blocks(sizes):
            self._fit(block, pieces, outputs)
        if len(outputs) < len(pieces):
            self._check_memory()
        if not outputs:
            return [self._does_not_fit() for _ in bodies]
        together, batch = torch.stack(list(outputs.values())), Staged([], [], len(pieces), len(bodies))
        with torch.inference_mode():
            numbers = self.rounded(self._numbers(together, list(outputs), batch).tolist())
        each = len(pieces) // len(bodies)
        fits = [all(each * row + part in outputs for part in range(each)) for row in range(len(bodies))]
        return [number if fit else self._does_not_fit() for number, fit in zip(numbers, fits, strict=True)]

    def _fit(self, block: Block, pieces: Sequence[Any], outputs: dict[int, Tensor]) -> bool:
        """Compute a block into ``outputs``, by place, in as many parts as it takes; whether all of it fitted."""
        places, size, rows = block
        try:
            with torch.inference_mode():
                arguments = self.device.stage(self._module.stage([pieces[place] for place in places], size, rows))
                computed = self._module(*arguments)[: len(places)].cpu()
        except Exception as error:
            if kind_of(error) is not OutOfMemory:
                raise
        else:
            outputs.update(zip(places, computed, strict=True))
            return True
        self.device.free_cache()
        smaller = max(self._module.least, rows // 2)
        if len(places) == 1 and smaller == rows:
            return False
        middle = len(places) // 2
        parts = [Block(part, size, smaller) for part in (places[:middle], places[middle:]) if part]
        fit = [self._fit(part, pieces, outputs) for part in parts]
        if all(fit) and smaller < rows and size * smaller < self._most_padded:
            self._most_padded = size * smaller
            BatchSizeLearned(model=self.name, device=str(self.device.place), padded=self._most_padded).emit()
        return all(fit)

    def _check_memory(self) -> None:
        """If not even the model's example fits, it is not the rows' fault."""
        pieces, sizes = self._module.pieces([self._example])
        if not self._fit(Block([0], sizes[0], self._module.least), pieces, {}):
            raise MemoryGone(f"{self.name}: nothing fits into the memory of {self.device.place} any more")

    def _does_not_fit(self) -> OutOfMemory:
        return OutOfMemory(f"this input does not fit into the memory of {self.device.place}, even alone")


class Staged(NamedTuple):
    """A batch on its way to the device: the arguments of each block, and how many ``pieces`` and ``rows`` it has."""

    blocks: Sequence[Block]
    arguments: Sequence[tuple[Tensor, ...]]
    pieces: int
    rows: int


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
            self._staged = model.staged(bodies)
        except Exception as error:  # noqa: BLE001 - raised when it is collected
            self._failure = error

    def launch(self) -> None:
        """Begin to compute."""
        if self._failure is None:
            self._began = time.monotonic()
            try:
                self._wait = self._model.device.start(
                    lambda: self._model.computed(self._staged), beside=self._model.overlaps
                )
            except Exception as error:  # noqa: BLE001 - raised when it is collected
                self._failure = error

    def collect(self) -> list[Answer]:
        """The numbers, as ``LoadedModel.run``."""
        try:
            if self._failure is not None:
                raise self._failure
            assert self._wait is not None, "launch first"
            numbers: list[Answer] = list(self._model.rounded(self._wait()))
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
