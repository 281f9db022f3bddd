"""What all figures share: size, colours, axes, keys, rows of data, and their form in the page."""

from __future__ import annotations

import contextlib
import html
import io
import re
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from flops_fit.flops.functions import Floats
from flops_fit.text import format_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Axes
    from matplotlib.figure import Figure as Figure
else:
    Axes = Figure = Any

Colour = tuple[float, float, float, float]
Row = dict[str, str | float | None]

# Of Okabe and Ito 2008, which colour-blind readers can tell apart, the green and pink darkened.
BLUE, VERMILLION, GREEN, PINK = "#0072b2", "#d55e00", "#007d5a", "#b0578d"
INK, FAINT, SHADE = "#222222", "#767676", "#f1f1f1"
SIZE = (3.4, 2.7)  # inches: a column of a two-column page
CLEAR = {"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.8}  # behind a label
SMALL, NORMAL = 6.5, 7.5  # points
DASHES = ((0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)), (0, (2, 2)))
_PAD = 4.0  # points around all that is drawn
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class FigureData(Protocol):
    """What every figure is drawn from."""

    def rows(self) -> list[Row]:
        """The same numbers as a table, one dict a row."""


def rows_of(**columns: str | float | Sequence[str | float] | Floats | None) -> list[Row]:
    """One row for each entry of the columns; a single value stands in every row."""
    lists = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in columns.items()}
    length = next(len(v) for v in lists.values() if isinstance(v, list | tuple))
    full = [v if isinstance(v, list | tuple) else [v] * length for v in lists.values()]
    return [dict(zip(lists, values, strict=True)) for values in zip(*full, strict=True)]


def new_figure(name: str, managed: bool = False, *, layout: bool = True) -> Figure:
    """An empty figure; pyplot's ``show()`` displays a ``managed`` one. ``layout`` adapts margins."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import TightLayoutEngine

    engine = TightLayoutEngine(pad=0.4) if layout else None
    make = import_module("matplotlib.pyplot").figure if managed else Figure
    figure: Figure = make(figsize=SIZE, layout=engine, dpi=200)
    figure.set_label(name)
    return figure


def set_margins(figure: Figure) -> None:
    """Make room for the labels of a figure's only axes once, so that later drawing costs no layout."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    (ax,) = figure.axes
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]  # it has no types
    outer = ax.get_tightbbox(renderer, for_layout_only=True)
    assert outer is not None
    inner, width, height = ax.bbox, figure.bbox.width, figure.bbox.height
    pad = _PAD / 72 * figure.dpi
    figure.subplots_adjust(
        left=(inner.x0 - outer.x0 + pad) / width,
        bottom=(inner.y0 - outer.y0 + pad) / height,
        right=1 - (outer.x1 - inner.x1 + pad) / width,
        top=1 - (outer.y1 - inner.y1 + pad) / height,
    )


def axes_of(ax: Axes | None, name: str) -> Axes:
    """The axes that were given, or those of a new figure."""
    return new_figure(name).add_subplot() if ax is None else ax


def annotate(ax: Axes, text: str, at: tuple[float, float], offset: float) -> None:
    """A small label to the right of a point, ``offset`` in points."""
    ax.annotate(
        text, at, xytext=(offset, 0), textcoords="offset points", va="center", fontsize=SMALL,
        color=INK, bbox=CLEAR,
    )  # fmt: skip


def text_as_text() -> contextlib.AbstractContextManager[None]:
    """While it lasts, SVG and PDF keep text as text that can be searched and edited."""
    from matplotlib import rc_context

    return rc_context({"svg.fonttype": "none", "pdf.fonttype": 42, "ps.fonttype": 42})


def compute_colours(n: int) -> list[Colour]:
    """From the smallest budget to the largest; ends before the yellow that is lost on white paper."""
    from matplotlib import colormaps

    return [colormaps["viridis"](x) for x in np.linspace(0.0, 0.75, n)]


def exponents(value: float) -> str:
    """A large number as people write it by hand: 6e18 is ``6×10¹⁸``."""
    mantissa, _, power = f"{value:.2e}".partition("e")
    head, tail = f"{float(mantissa):g}", f"10{str(int(power)).translate(_RAISED)}"
    return tail if head == "1" else f"{head}×{tail}"


def log_axis(
    ax: Axes, which: Literal["x", "y"], label: str, shown: Callable[[float], str] = format_count
) -> None:
    """A logarithmic axis with a handful of labelled ticks that do not touch."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

    getattr(ax, f"set_{which}scale")("log")
    getattr(ax, f"set_{which}label")(label)
    low, high = getattr(ax, f"get_{which}lim")()
    axis = getattr(ax, f"{which}axis")
    axis.set_major_locator(FixedLocator(_ticks(low, high)))
    axis.set_major_formatter(FuncFormatter(lambda v, _: shown(v)))
    minor = _of_decades(low, high, range(2, 10)) if 0.9 < np.log10(high / low) < 3.3 else []
    axis.set_minor_locator(FixedLocator(minor) if minor else NullLocator())
    axis.set_minor_formatter(NullFormatter())
    getattr(ax, f"set_{which}lim")(low, high)


def _ticks(low: float, high: float, most: int = 6) -> list[float]:
    """The densest round numbers that are no more than ``most``."""
    if high / low < 4:
        from matplotlib.ticker import MaxNLocator

        ticks = MaxNLocator(most - 1, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        return [float(v) for v in ticks if low <= v <= high]
    for digits in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        choice = _of_decades(low, high, digits)
        if len(choice) <= most:
            return choice
    step = -(-len(choice) // most)
    return choice[step // 2 :: step]


def _of_decades(low: float, high: float, digits: Iterable[float]) -> list[float]:
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    return [d * 10.0**p for p in powers for d in digits if low <= d * 10.0**p <= high]


def finish(ax: Axes, columns: int = 2) -> Figure:
    """A faint grid, two open sides, small type, and a key above the axes; returns the figure."""
    from matplotlib.figure import Figure

    ax.spines[["top", "right"]].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set(color=FAINT, linewidth=0.6)
    ax.grid(True, which="major", color="#e6e6e6", lw=0.5)
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=SMALL, color=FAINT, labelcolor=INK, width=0.6, length=2.5)
    ax.tick_params(which="minor", color=FAINT, width=0.4, length=1.5)
    for axis in (ax.xaxis, ax.yaxis):
        axis.label.set(fontsize=NORMAL, color=INK)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(
            loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=columns, frameon=False,
            fontsize=SMALL, labelcolor=INK, handlelength=1.5, columnspacing=1.0,
            handletextpad=0.5, borderaxespad=0.2, labelspacing=0.3,
        )  # fmt: skip
    figure = ax.get_figure(root=True)
    if not isinstance(figure, Figure):
        raise ValueError("expected axes in a figure; these were removed from theirs.")
    return figure


DARK_PAPER = (22, 24, 28)  # of the page in the dark
_MIN_CONTRAST = 4.5


def inline_svg(figure: Figure, title: str, description: str) -> str:
    """A figure as an SVG element whose colours are variables of the page, ``--c`` and the hex code."""
    from matplotlib import rc_context

    name = str(figure.get_label())
    stream = io.StringIO()
    with text_as_text(), rc_context({"svg.hashsalt": name}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = "<svg" + stream.getvalue().partition("<svg")[2].strip()
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r">\s+<", "><", text)
    # Several figures share a page, and names of their parts would meet.
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="|url\()#', rf"\1#{name}-", text)
    code = re.compile(r"#([0-9a-f]{6})\b")
    text = re.sub(r'style="[^"]*"', lambda m: code.sub(r"var(--c\1,#\1)", m[0]), text)
    opening, _, rest = text.partition(">")
    (box,) = re.findall(r'viewBox="[^"]*"', opening)
    return (
        f'<svg role="img" aria-labelledby="{name}-title" aria-describedby="{name}-desc" '
        f'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {box}>'
        f'<title id="{name}-title">{html.escape(title)}</title>'
        f'<desc id="{name}-desc">{html.escape(description)}</desc>{rest}'
    )


def dark_colour(code: str) -> str:
    """A colour for dark paper: greys are inverted, others lightened until they can be read."""
    rgb = tuple(int(code[i : i + 2], 16) for i in (0, 2, 4))
    if max(rgb) - min(rgb) < 12:
        share = 1 - sum(rgb) / (3 * 255)
        mixed = tuple(round(p + share * (236 - p)) for p in DARK_PAPER)
    else:
        mixed, white = rgb, 0.0
        while contrast(mixed) < _MIN_CONTRAST and white < 1:
            white += 0.02
            mixed = tuple(round(c + white * (255 - c)) for c in rgb)
    return "#" + "".join(f"{c:02x}" for c in mixed)


def contrast(rgb: tuple[int, ...], paper: tuple[int, ...] = DARK_PAPER) -> float:
    """Contrast of a light colour on dark paper, that of WCAG 2.2."""
    v = np.array([rgb, paper]) / 255
    linear = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    light, dark = linear @ [0.2126, 0.7152, 0.0722]
    return float((light + 0.05) / (dark + 0.05))
