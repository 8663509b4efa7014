"""The plot of a section: how every variant compares with the dense model, per number of threads."""

import argparse
from pathlib import Path

from matplotlib.figure import Figure

from hf_metis_home._folders import write_whole
from hf_metis_home.reports.figures import svg_text

from .common import section_of


def write_plot(args: argparse.Namespace, ratios: dict[int, dict[str, float]], reference: str) -> str:
    """
    Write bars of ratios as an SVG beside the page.

    Args:
        ratios (`dict[int, dict[str, float]]`):
            Number of threads to name of a variant to its time divided by the reference's.
        reference (`str`):
            The variant whose time is 1.

    Returns:
        `str`: the Markdown that shows the picture in the page.
    """
    name = section_of(args) if args.device == "cpu" else f"{section_of(args)}_{args.device}"
    path = args.output.parent / "assets" / f"{name}.svg"
    path.parent.mkdir(parents=True, exist_ok=True)
    names = list(next(iter(ratios.values())))
    height = 0.8 / len(ratios)
    figure = Figure(figsize=(8, 0.8 + 0.32 * len(names)), layout="constrained")
    axes = figure.add_subplot()
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
    write_whole(path, svg_text(figure, transparent=False))
    return f"![Time of every variant against {reference}]({Path('assets') / path.name})"
