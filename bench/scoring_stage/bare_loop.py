"""The bare torch loop: the model over the same rows, in a process of its own, with no queue around it."""

import argparse
import itertools
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence

import safetensors.torch
import torch

from bench.scoring_stage.backlog import LIGHT_RATE, MODEL, encoded_rows
from pipeline.models.folder import ModelStore
from pipeline.service.entry_points import CloneEntryPoint, clone_environment, command
from pipeline.settings import read_settings
from scoring.architectures import build
from scoring.device import cores_given, open_device
from scoring.model import MOST_PADDED
from scoring.pieces import Block, blocks

Way = Callable[[Sequence[bytes]], object]


def bare_loop(store: ModelStore, *, grouped_by_length: bool = True) -> tuple[Way, int]:
    """Returns a call that runs a batch with nothing around it, and the manifest's ``max_batch``."""
    torch.set_num_threads(read_settings().torch_threads or cores_given())
    artifact = store.load(MODEL, "1")
    device = open_device(os.environ.get("BENCH_DEVICE", "cpu"))
    module = build(artifact.manifest["architecture"])
    module.load_state_dict(safetensors.torch.load(artifact.read("model.safetensors")))
    dtype = getattr(torch, artifact.manifest["dtype"].get(device.place.type, "float32"))
    module.to(device.place, dtype).eval()

    @torch.inference_mode()
    def run(batch: Sequence[bytes]) -> None:
        pieces, sizes = module.pieces(batch)
        if grouped_by_length:
            parts = list(blocks(sizes, module.rows, module.least, MOST_PADDED, varied=device.exact))
        else:
            parts = [Block(range(len(sizes)), max(sizes), len(sizes))]
        outputs: list[torch.Tensor] = []
        order: list[int] = []
        for places, size, rows in parts:
            arguments = device.stage(module.stage([pieces[place] for place in places], size, rows))
            outputs.append(module(*arguments)[: len(places)])
            order += places
        together = torch.cat(outputs)
        in_place = torch.empty_like(together)
        in_place[torch.tensor(order, device=together.device)] = together
        module.raw(in_place).tolist()

    return run, artifact.manifest["max_batch"]


def rate(store: ModelStore, seconds: float, longest: int, *, grouped_by_length: bool) -> float:
    """Measures rows a second."""
    run, size = bare_loop(store, grouped_by_length=grouped_by_length)
    bodies = encoded_rows(store, store.load(MODEL, "1").ref, longest=longest)
    batches = itertools.cycle([bodies[at : at + size] for at in range(0, len(bodies) - size + 1, size)])
    run(next(batches))
    done, began = 0, time.monotonic()
    while time.monotonic() - began < seconds:
        run(next(batches))
        done += size
    return done / (time.monotonic() - began)


def row_ms(store: ModelStore, rows: int, longest: int) -> float:
    """Measures the median time of one row, in ms."""
    run, _ = bare_loop(store)
    took = []
    for body in encoded_rows(store, store.load(MODEL, "1").ref, rows=rows, longest=longest):
        began = time.monotonic()
        run([body])
        took.append(1000 * (time.monotonic() - began))
        time.sleep(1 / LIGHT_RATE)  # as idle in between as the stage is
    return statistics.median(took)


def in_a_process(what: str, seconds: float, longest: int) -> float:
    """Measures in a process of its own: ``grouped`` or ``as-they-come`` rows a second, or the ms of one ``row``."""
    start = command(CloneEntryPoint.BENCH_SCORING, what, "--seconds", str(seconds), "--longest", str(longest))
    done = subprocess.run(start, env=clone_environment(), capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    """Measures one thing and prints it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["grouped", "as-they-come", "row"])
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--longest", type=int, required=True, help="tokens of the longest text")
    options = parser.parse_args()
    store = ModelStore(read_settings().model_store)
    if options.what == "row":
        print(row_ms(store, round(options.seconds * LIGHT_RATE), options.longest))
    else:
        print(rate(store, options.seconds, options.longest, grouped_by_length=options.what == "grouped"))


if __name__ == "__main__":
    main()
