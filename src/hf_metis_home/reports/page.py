"""
What all reports share: one HTML file each that needs nothing else, neither other files nor a network.

No scripts: a page is text, CSS and images inside the file, so it can be mailed, archived and diffed. Jinja escapes all
text, so nothing that a model or a dataset says can act as HTML.
"""

import base64
import io
import json
import math
from pathlib import Path


# Colors on light and on dark screens, of pages and of the plots in them.
PALETTE = {
    "ink": ("#1b2330", "#e6eaf0"), "soft": ("#5b6675", "#9aa6b6"), "line": ("#dde2e9", "#303947"),
    "gray": ("#6b7583", "#a3adba"), "orange": ("#c2620a", "#f0a35a"), "purple": ("#9a3fb0", "#d292e3"),
    "blue": ("#1f5fd0", "#7fb0ff"), "red": ("#c8324f", "#ff8ba1"), "green": ("#12855a", "#5fd3a4"),
}  # fmt: skip


def render_page(template: Path, **values) -> str:
    """
    A page from a template, which may extend `page.html.jinja`.

    Args:
        template (`Path`):
            The template's file.
        values:
            What the template uses. A missing one is an error, not a gap in the page.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, decimal=decimal, number=number, shorten=shorten)
    environment.globals["palette"] = PALETTE
    return environment.get_template(template.name).render(**values)


def data_uri(image, format: str = "PNG", **options) -> str:
    """A [`PIL.Image.Image`] as the `src` of an image."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format=format, **options)
    return f"data:image/{format.lower()};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def interval_of(cell: dict, name: str = "interval") -> tuple[float, float] | None:
    low, high = cell.get(name) or (None, None)
    return (low, high) if known(low) and known(high) else None


def interval_words(cell: dict) -> str:
    """The interval of a cell in percent, such as "41.2 to 50.3"; empty if unknown."""
    interval = interval_of(cell)
    return f"{percent(interval[0])} to {percent(interval[1])}" if interval else ""


def percent(value: float | None, digits: int = 1, unit: str = "") -> str:
    # Adding zero turns a rounded minus zero into zero.
    return f"{round(100 * value, digits) + 0.0:.{digits}f}{unit}" if known(value) else "–"


def decimal(value: float | None, digits: int = 1) -> str:
    return f"{value:.{digits}f}" if known(value) else "–"


def number(value: float | None) -> str:
    return f"{value:,.0f}" if known(value) else "–"


def shorten(value: object, longest: int) -> str:
    """Start and end of a long text, and how much is left out in between. What is not text becomes JSON."""
    text = "–" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text) <= longest:
        return text
    head, tail = longest * 2 // 3, longest // 3
    return f"{text[:head]} […{len(text) - head - tail:,} characters left out…] {text[-tail:]}"
