"""
What our reports have in common: one HTML file each that needs nothing beside it, neither files nor a network.

Left out: scripts. Everything is text, CSS and SVG, so that a page can be mailed, archived and diffed. All text goes
through jinja's escaping, so that what a model or a dataset says stays text.
"""

import base64
import io
import math
from dataclasses import dataclass
from pathlib import Path


LINE_HEIGHT = 18


def render_page(template: Path, **values) -> str:
    """
    A page from a template, which may extend `page.html.jinja` and use the macros of `plot.html.jinja`.

    Args:
        template (`Path`):
            File of the template.
        values:
            What the template names. A name that is not given is an error, not an empty place.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, decimal=decimal, number=number)
    return environment.get_template(template.name).render(**values)


@dataclass(frozen=True)
class Frame:
    """
    The rectangle of a plot: from values to pixels, and where the ticks are.

    Args:
        x_end (`float`):
            Right end of the horizontal axis, which begins at 0.
        x_labels (`list[tuple[float, str]]`):
            Values and texts of its ticks.
        y_start, y_end (`float`, *optional*, defaults to 0.0 and 1.0):
            Shares at the lower and the upper end.
        right (`int`, *optional*, defaults to 150):
            Pixels beside the rectangle for the names of the marks.
    """

    x_end: float
    x_labels: list[tuple[float, str]]
    y_start: float = 0.0
    y_end: float = 1.0
    width: int = 520
    height: int = 320
    left: int = 48
    right: int = 150
    top: int = 12
    bottom: int = 44

    def x(self, value: float) -> float:
        return round(self.left + value / self.x_end * (self.width - self.left - self.right), 1)

    def y(self, share: float) -> float:
        part = (min(max(share, self.y_start), self.y_end) - self.y_start) / (self.y_end - self.y_start)
        return round(self.top + (1 - part) * (self.height - self.top - self.bottom), 1)

    @property
    def x_ticks(self) -> list[tuple[float, str]]:
        return [(self.x(value), label) for value, label in self.x_labels]

    @property
    def y_ticks(self) -> list[tuple[float, str]]:
        span = self.y_end - self.y_start
        step = 0.25 if span == 1 else 0.2 if span > 0.55 else 0.1 if span > 0.25 else 0.05
        shares = [self.y_start + index * step for index in range(int(span / step + 1e-6) + 1)]
        return [(self.y(share), f"{100 * share:.0f}") for share in shares]


def frame_to(highest: float, **options) -> Frame:
    """A [`Frame`] whose horizontal axis goes from 0 to a round number above `highest`."""
    step = tick_step(highest)
    ticks = math.floor(highest / step) + 1
    return Frame(ticks * step, [(index * step, f"{index * step:g}") for index in range(ticks + 1)], **options)


def tick_step(highest: float) -> float:
    """A round distance (1, 2 or 5 times a power of ten) that divides [0, highest] into at most about five parts."""
    rough = max(highest, 1e-6) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)


def place_labels(marks: list[dict], frame: Frame) -> None:
    """Adds `label_y`: names stand in one column, in the order of their marks, which often nearly coincide."""
    # The height that a name wants, moved down to clear the one above, then up where the column would leave the plot.
    lowest = frame.height - frame.bottom
    ordered = sorted(marks, key=lambda mark: (mark["y"], mark["x"]))
    above = frame.top - LINE_HEIGHT
    for mark in ordered:
        mark["label_y"] = above = max(mark["y"], above + LINE_HEIGHT)
    for mark in reversed(ordered):
        mark["label_y"] = lowest = min(mark["label_y"], lowest)
        lowest -= LINE_HEIGHT


def data_uri(image, format: str = "PNG", **options) -> str:
    """A [`PIL.Image.Image`] as the `src` of an image."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format=format, **options)
    return f"data:image/{format.lower()};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def percent(value: float | None, digits: int = 1, unit: str = "") -> str:
    # Plus zero, which takes the sign of what is rounded to minus zero.
    return f"{round(100 * value, digits) + 0.0:.{digits}f}{unit}" if known(value) else "–"


def decimal(value: float | None, digits: int = 1) -> str:
    return f"{value:.{digits}f}" if known(value) else "–"


def number(value: float | None) -> str:
    return f"{value:,}" if known(value) else "–"
