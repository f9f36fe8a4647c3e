"""Figures as SVG with the page's colors, for light and dark mode. Does not import pyplot."""

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

# Six hues that are distinct for color-blind readers (Okabe and Ito 2008, without black and yellow, which are hardly
# visible on one of the page's two backgrounds), then four of them again, dashed. style.css defines --c0 to --c5.
STYLES = tuple((hue, None) for hue in range(6)) + tuple((hue, (4, 2)) for hue in (0, 1, 2, 5))

# Placeholder colors that matplotlib writes into the file; `to_svg` replaces them with the page's CSS variables.
INK, GRID, REST, CARD = "#010203", "#010204", "#010205", "#010206"
HUES = tuple(f"#0102{0x10 + hue:02x}" for hue in range(6))
_VARIABLES = {INK: "currentColor", GRID: "var(--line)", REST: "var(--rest)", CARD: "var(--card)"} | {
    hue: f"var(--c{i})" for i, hue in enumerate(HUES)
}
SETTINGS = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar sign in a value is not mathematics
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
    """Return an empty figure with axes; sizes and margins in inches. Call and draw within `settings()`.

    The margins are fixed, because a layout engine would draw everything twice.
    """
    figure = Figure(figsize=(width, height))
    FigureCanvasSVG(figure)
    size = (width - left - right) / width, (height - bottom - 0.1) / height
    return figure, figure.add_axes((left / width, bottom / height, *size))


def settings() -> contextlib.AbstractContextManager:
    """Return a context with the page's matplotlib style."""
    return matplotlib.rc_context(SETTINGS)


def plain_log(axis: Axis) -> None:
    """Label the ticks of a logarithmic axis as plain numbers: `0.1`, `1e-05`."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def ticks(axes: Axes, positions: Sequence[float], names: Sequence[str]) -> None:
    """Label the levels of a factor along x, as many as there is room for."""
    span = (max(positions) - min(positions)) or 1.0
    room, last, shown = 0.022 * span, float("-inf"), []
    for position, name in zip(positions, names):
        fits = position - last >= room * (len(name) + 1)
        shown.append(name if fits else "")
        last = position + room * len(name) / 2 if fits else last
    axes.set_xticks(list(positions), shown)


def short(text: str, most: int = 26) -> str:
    """Shorten `text` to at most `most` characters, with an ellipsis."""
    return text if len(text) <= most else text[: most - 1] + "…"


def to_svg(figure: Figure, name: str, label: str) -> str:
    """Return a figure as an <svg> element. `name` makes its ids unique on the page, `label` is for screen readers."""
    file = io.StringIO()
    with matplotlib.rc_context({**SETTINGS, "svg.hashsalt": name}):  # for reproducible ids
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{name}-", text)  # unique ids
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    text = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag.group()), text)  # only within tags
    for placeholder, variable in _VARIABLES.items():
        text = text.replace(placeholder, variable)
    size = re.search(r'viewBox="[^"]*"', text).group()
    return re.sub(r"<svg[^>]*>", f'<svg {size} role="img" aria-label="{html.escape(label)}">', text, count=1)
