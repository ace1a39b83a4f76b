"""Throughput against latency, one line a system: ``python -m bench.peers.plot FIGURES.json PICTURE.svg``.

It has no background of its own, and colours that stand out against white and black alike.
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter, NullFormatter

from bench.peers.points import curves

GREY = "#7d8590"
COLOURS = ("#2f81f7", "#1b9aaa", "#d9730d", "#a371f7", "#db4b7d", "#3d9a50", "#b08800")


def draw(document: dict[str, Any], picture: Path) -> None:
    """One line for each closed way of sending, labelled at its end."""
    mpl.use("svg")
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "scoreline", "font.family": "sans-serif"})
    figure, axes = plt.subplots(figsize=(8.5, 5.2), layout="constrained")
    for colour, (label, points) in zip(COLOURS, curves(document["points"], document["labels"]).items(), strict=False):
        rates = [point["requests_per_s"] for point in points]
        latencies = [point["latency_ms"]["p50"] for point in points]
        axes.plot(rates, latencies, color=colour, marker="o", markersize=4.5, linewidth=1.8)
        axes.annotate(
            label, (rates[-1], latencies[-1]), xytext=(0, 8), textcoords="offset points", ha="center", color=colour
        )
        for point, rate, latency in zip(points, rates, latencies, strict=True):
            axes.annotate(
                str(point["clients"]), (rate, latency), xytext=(0, -11), textcoords="offset points",
                ha="center", color=GREY, fontsize=7,
            )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="requests/s", ylabel="median latency, ms")
    axes.margins(x=0.1, y=0.12)
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


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
