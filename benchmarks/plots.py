"""The picture of a section: how every variant compares with the dense model, per number of threads."""

import argparse
import os
from pathlib import Path

from .common import section_of


def write_plot(args: argparse.Namespace, ratios: dict[int, dict[str, float]], reference: str) -> str:
    """
    Bars of ratios, written as an SVG beside the page.

    Args:
        ratios (`dict[int, dict[str, float]]`):
            Per number of threads: the name of a variant and its time over the reference's.
        reference (`str`):
            What 1 stands for.

    Returns:
        `str`: the Markdown that shows the picture in the page.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    name = section_of(args) if args.device == "cpu" else f"{section_of(args)}_{args.device}"
    path = args.output.parent / "assets" / f"{name}.svg"
    path.parent.mkdir(parents=True, exist_ok=True)
    names = list(next(iter(ratios.values())))
    height = 0.8 / len(ratios)
    # Text stays text; nothing in the file changes from run to run but the figures.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": section_of(args)}):
        figure, axes = pyplot.subplots(figsize=(8, 0.8 + 0.32 * len(names)), layout="constrained")
        for number, (threads, values) in enumerate(ratios.items()):
            places = [row + (number - (len(ratios) - 1) / 2) * height for row in range(len(names))]
            label = args.device if args.device != "cpu" else f"{threads} thread{'s' if threads > 1 else ''}"
            bars = axes.barh(places, [values[name] for name in names], height, label=label)
            axes.bar_label(bars, fmt="%.2f", padding=2, fontsize=7)
        axes.axvline(1.0, color="black", linewidth=0.8)
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.invert_yaxis()
        axes.set_xlabel(f"time, {reference} = 1")
        axes.margins(x=0.12)
        figure.legend(loc="outside upper right", ncols=len(ratios), fontsize=8)
        figure.savefig(f"{path}.partial", format="svg", metadata={"Date": None})
    pyplot.close(figure)
    os.replace(f"{path}.partial", path)
    return f"![Time of every variant against {reference}]({Path('assets') / path.name})"
