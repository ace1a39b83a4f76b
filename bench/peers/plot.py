"""Throughput against latency, one line a system: ``python -m bench.peers.plot FIGURES.json PICTURE.svg``.

It has no background of its own, and colours that stand out against white and black alike.
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter, NullFormatter
from matplotlib.transforms import Bbox

from bench.peers.points import curves

GREY = "#7d8590"
COLOURS = ("#2f81f7", "#1b9aaa", "#d9730d", "#a371f7", "#db4b7d", "#3d9a50", "#b08800")
SIDES: tuple[tuple[tuple[int, int], str], ...] = (
    ((9, -4), "left"), ((0, 9), "center"), ((-9, -4), "right"), ((9, 8), "left"), ((9, -16), "left"),
)  # fmt: skip
"""Where a label may stand by the end of its line: an offset (points), and how it is aligned."""


def draw(document: dict[str, Any], picture: Path) -> None:
    """One line for each closed way of sending, labelled at its end; at each point how many clients there were."""
    mpl.use("svg")
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "scoreline", "font.family": "sans-serif"})
    figure, axes = plt.subplots(figsize=(8.5, 5.6), layout="constrained")
    axes.set(xscale="log", yscale="log", xlabel="requests/s", ylabel="median latency, ms")
    ends: list[tuple[str, str, tuple[float, float]]] = []
    taken: list[tuple[float, float]] = []
    for colour, (label, points) in zip(COLOURS, curves(document["points"], document["labels"]).items(), strict=False):
        rates = [point["requests_per_s"] for point in points]
        latencies = [point["latency_ms"]["p50"] for point in points]
        axes.plot(rates, latencies, color=colour, marker="o", markersize=4.5, linewidth=1.8)
        for point, rate, latency in zip(points, rates, latencies, strict=True):
            axes.annotate(
                str(point["clients"]), (rate, latency), xytext=(-4, -10), textcoords="offset points",
                ha="right", color=GREY, fontsize=7,
            )  # fmt: skip
        ends.append((label, colour, (rates[-1], latencies[-1])))
        steps = np.linspace(0, len(points) - 1, 100)
        taken += zip(
            np.exp(np.interp(steps, range(len(points)), np.log(rates))),
            np.exp(np.interp(steps, range(len(points)), np.log(latencies))),
            strict=True,
        )
    axes.margins(x=0.1, y=0.1)
    axes.set_xlim(right=2 * axes.get_xlim()[1])  # room for the labels of the fastest
    _label(axes, ends, taken)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axis.set_minor_formatter(NullFormatter())
        axis.label.set_color(GREY)
    axes.tick_params(which="both", colors=GREY)
    axes.grid(which="major", color=GREY, alpha=0.25)
    for side, spine in axes.spines.items():
        spine.set_color(GREY)
        spine.set_visible(side in ("left", "bottom"))
    figure.savefig(picture, transparent=True, metadata={"Date": None})


def _label(axes: Any, ends: list[tuple[str, str, tuple[float, float]]], taken: list[tuple[float, float]]) -> None:
    """Puts each label on the side of its line's end where it covers least of lines and other labels."""
    axes.figure.draw_without_rendering()
    lines = axes.transData.transform(taken)
    boxes: list[Bbox] = []
    for label, colour, end in ends:
        tried: list[tuple[int, int, Any, Bbox]] = []
        for offset, aligned in SIDES:
            text = axes.annotate(label, end, xytext=offset, textcoords="offset points", ha=aligned, color=colour)
            box = text.get_window_extent()
            covered = sum(box.contains(*point) for point in lines) + 100 * sum(box.overlaps(other) for other in boxes)
            outside = box.x1 > axes.bbox.x1 or box.y1 > axes.bbox.y1
            tried.append((covered + 1000 * outside, len(tried), text, box))
        _, _, best, box = min(tried, key=lambda attempt: attempt[:2])
        for _, _, text, _ in tried:
            if text is not best:
                text.remove()
        boxes.append(box)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
