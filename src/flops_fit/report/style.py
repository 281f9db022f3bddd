"""How every figure looks: size, colours, axes, keys. Nothing global is changed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from flops_fit.text import format_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Of Okabe and Ito 2008, which colour-blind readers can tell apart, the green and pink darkened.
BLUE, VERMILLION, GREEN, PINK = "#0072b2", "#d55e00", "#007d5a", "#b0578d"
INK, FAINT, SHADE = "#222222", "#767676", "#f1f1f1"
WIDTH, HEIGHT = 3.4, 2.7  # inches: a column of a two-column page
CLEAR = {"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.8}  # behind a label
SMALL, NORMAL = 6.5, 7.5  # points
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def new_figure(
    name: str, managed: bool = False, size: tuple[float, float] = (WIDTH, HEIGHT)
) -> Figure:
    """An empty figure; a ``managed`` one belongs to pyplot, whose ``show()`` displays it."""
    from matplotlib.layout_engine import TightLayoutEngine

    layout = TightLayoutEngine(pad=0.4)
    if managed:
        import matplotlib.pyplot as plt

        figure = plt.figure(figsize=size, layout=layout, dpi=200)
    else:
        from matplotlib.figure import Figure

        figure = Figure(figsize=size, layout=layout, dpi=200)
    figure.set_label(name)
    return figure


def axes_of(ax: Axes | None, name: str) -> Axes:
    """The axes that were given, or those of a new figure."""
    return new_figure(name).add_subplot() if ax is None else ax


def figure_of(ax: Axes) -> Figure:
    """The figure that axes stand in, whether it holds more or not."""
    from matplotlib.figure import Figure

    found = ax.get_figure(root=True)
    if not isinstance(found, Figure):
        raise ValueError("expected axes in a figure; these were removed from theirs.")
    return found


@contextlib.contextmanager
def text_as_text() -> Iterator[None]:
    """While it lasts, SVG and PDF keep text as text that can be searched and edited."""
    from matplotlib import rc_context

    with rc_context({"svg.fonttype": "none", "pdf.fonttype": 42, "ps.fonttype": 42}):
        yield


def compute_colours(n: int) -> list[Any]:
    """From the cheapest budget to the dearest; ends before the yellow that white paper swallows."""
    from matplotlib import colormaps

    return [colormaps["viridis"](x) for x in np.linspace(0.0, 0.75, n)]


def exponents(value: float) -> str:
    """A large number as people write it by hand: 6e18 is ``6×10¹⁸``."""
    mantissa, _, power = f"{value:.2e}".partition("e")
    head = f"{float(mantissa):g}"
    tail = f"10{str(int(power)).translate(_RAISED)}"
    return tail if head == "1" else f"{head}×{tail}"


def log_axis(ax: Axes, which: Literal["x", "y"], label: str, shown: Any = format_count) -> None:
    """A logarithmic axis with a handful of labelled ticks that do not touch."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

    getattr(ax, f"set_{which}scale")("log")
    getattr(ax, f"set_{which}label")(label)
    low, high = getattr(ax, f"get_{which}lim")()
    axis = getattr(ax, f"{which}axis")
    axis.set_major_locator(FixedLocator(_ticks(low, high)))
    axis.set_major_formatter(FuncFormatter(lambda v, _: shown(v)))
    decades = np.log10(high / low)
    minor = _of_decades(low, high, range(2, 10)) if 0.9 < decades < 3.3 else []
    axis.set_minor_locator(FixedLocator(minor) if minor else NullLocator())
    axis.set_minor_formatter(NullFormatter())
    getattr(ax, f"set_{which}lim")(low, high)


def _ticks(low: float, high: float, most: int = 6) -> list[float]:
    """The densest round numbers that are no more than ``most``."""
    if high / low < 4:
        from matplotlib.ticker import MaxNLocator

        found = MaxNLocator(most - 1, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        return [float(v) for v in found if low <= v <= high]
    for digits in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3)):
        found = _of_decades(low, high, digits)
        if len(found) <= most:
            return list(found)
    decades = _of_decades(low, high, (1,))
    step = -(-len(decades) // most)
    return decades[step // 2 :: step]


def _of_decades(low: float, high: float, digits: Any) -> list[float]:
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    return [d * 10.0**p for p in powers for d in digits if low <= d * 10.0**p <= high]


def grid(ax: Axes) -> None:
    """Thin lines behind the data, two open sides, small type."""
    ax.spines[["top", "right"]].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(FAINT)
        ax.spines[side].set_linewidth(0.6)
    ax.grid(True, which="major", color="#e6e6e6", lw=0.5)
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=SMALL, color=FAINT, labelcolor=INK, width=0.6, length=2.5)
    ax.tick_params(which="minor", color=FAINT, width=0.4, length=1.5)
    for axis in (ax.xaxis, ax.yaxis):
        axis.label.set_fontsize(NORMAL)
        axis.label.set_color(INK)


def key(ax: Axes, columns: int = 2) -> None:
    """What marks mean, above the axes, where it can cover nothing."""
    handles, labels = ax.get_legend_handles_labels()
    if not handles:
        return
    ax.legend(
        handles,
        labels,
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=columns,
        frameon=False,
        fontsize=SMALL,
        labelcolor=INK,
        handlelength=1.5,
        columnspacing=1.0,
        handletextpad=0.5,
        borderaxespad=0.2,
        labelspacing=0.3,
    )
