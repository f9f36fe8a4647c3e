"""Drawings as SVG that takes its colours from the page (so dark and light both work). No pyplot."""

import contextlib
import html
import io
import re
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

# Six hues that every colour vision tells apart (Okabe and Ito 2008, without black and yellow, which one of
# the two page colours would swallow), then four of them again, dashed. The page defines --c0 to --c5.
STYLES = tuple((hue, None) for hue in range(6)) + tuple((hue, (4, 2)) for hue in (0, 1, 2, 5))

# Stand-ins that matplotlib writes into the file and the page's own colours replace.
INK, GRID, REST, CARD = "#010203", "#010204", "#010205", "#010206"
HUES = tuple(f"#0102{0x10 + hue:02x}" for hue in range(6))
_VARIABLES = {INK: "currentColor", GRID: "var(--line)", REST: "var(--rest)", CARD: "var(--card)"} | {
    hue: f"var(--c{i})" for i, hue in enumerate(HUES)
}
SETTINGS = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a value with a dollar is a value
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.linewidth": 0.6,
}


def panel(
    width: float = 4.6, height: float = 3.1, left: float = 0.62, bottom: float = 0.5, right: float = 0.12
) -> tuple[Figure, Axes]:
    """An empty panel and its margins, in inches; draw within `settings()`.

    The margins are given: to let a layout engine find them draws everything twice.
    """
    figure = Figure(figsize=(width, height))
    FigureCanvasSVG(figure)
    size = (width - left - right) / width, (height - bottom - 0.1) / height
    return figure, figure.add_axes((left / width, bottom / height, *size))


def settings() -> contextlib.AbstractContextManager:
    """The page's style, for the time of drawing."""
    return matplotlib.rc_context(SETTINGS)


def plain_log(axis: Axis) -> None:
    """Names the powers of ten without mathematics: `0.1`, `1e-05`."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def ticks(axes: Axes, places: Sequence[float], names: Sequence[str]) -> None:
    """Names the levels of a factor along x, as many as there is room for."""
    span = (max(places) - min(places)) or 1.0
    room, last, shown = 0.022 * span, float("-inf"), []
    for place, name in zip(places, names):
        fits = place - last >= room * (len(name) + 1)
        shown.append(name if fits else "")
        last = place + room * len(name) / 2 if fits else last
    axes.set_xticks(list(places), shown)


def short(text: str, most: int = 26) -> str:
    """A long value's beginning."""
    return text if len(text) <= most else text[: most - 1] + "…"


def to_svg(figure: Figure, name: str, label: str) -> str:
    """The drawing as an <svg> element; `name` makes its ids its own, `label` is read aloud."""
    file = io.StringIO()
    with matplotlib.rc_context({**SETTINGS, "svg.hashsalt": name}):  # the same folder gives the same bytes
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{name}-", text)  # several pictures share the page
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    text = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag.group()), text)  # not in what is read
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, variable)
    size = re.search(r'viewBox="[^"]*"', text).group()
    return re.sub(r"<svg[^>]*>", f'<svg {size} role="img" aria-label="{html.escape(label)}">', text, count=1)
