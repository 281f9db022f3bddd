"""What all figures share: size, colours, axes, keys, rows of data, and their form in the page."""

import contextlib
import html
import io
import json
import re
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from flops_fit.flops.functions import Floats
from flops_fit.table.run_table import RunTable
from flops_fit.text import format_count

if TYPE_CHECKING:
    from matplotlib.artist import Artist as Artist
    from matplotlib.axes import Axes as Axes
    from matplotlib.figure import Figure as Figure
else:
    Artist = Axes = Figure = Any

Colour = tuple[float, float, float, float]
Ints = npt.NDArray[np.intp]
Row = dict[str, str | float | None]

# Of Okabe and Ito 2008, which colour-blind readers can tell apart, the green and pink darkened.
BLUE, VERMILLION, GREEN, PINK = "#0072b2", "#d55e00", "#007d5a", "#b0578d"
INK, FAINT, SHADE = "#222222", "#767676", "#f1f1f1"
SIZE = (3.4, 2.7)  # inches: a column of a two-column page
CLEAR = {"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.8}  # behind a label
SMALL, NORMAL = 6.5, 7.5  # points
DASHES = ((0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)), (0, (2, 2)))
DENSE = 400  # more points than this are thinned
_CELLS = 90  # along each axis: of points that share one, the first is drawn
_MAX_KEYS = 5  # budgets named in a legend; more have a strip of colours
_HINTED = 1.07  # how much wider a text may be at other dots an inch
PAD = 0.4  # around all that is drawn, in font sizes of 10 points
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def loss_name(runs: RunTable) -> str:
    """The loss as axes call it, with the unit that its heading says."""
    heading = next((r.lower() for r in runs.recognised if r.startswith("loss: ")), "")
    units = {
        "bits a byte": r"bpb|bits?[ _/]+(per_)?byte",
        "bits a token": r"bits?[ _/]+(per_)?tok",
        "nats a byte": r"nats?[ _/]+(per_)?byte",
        "nats": "nats",
    }
    unit = next((f", {u}" for u, form in units.items() if re.search(form, heading)), "")
    training = any("is a training loss" in note for note in runs.notes)
    return f"{'Training' if training else 'Held-out'} loss{unit}"


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


def new_figure(name: str, managed: bool = False) -> Figure:
    """An empty figure whose margins adapt; pyplot's ``show()`` displays a ``managed`` one."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import TightLayoutEngine

    make = import_module("matplotlib.pyplot").figure if managed else Figure
    figure: Figure = make(figsize=SIZE, layout=TightLayoutEngine(pad=PAD), dpi=200)
    figure.set_label(name)
    return figure


def axes_of(ax: Axes | None, name: str) -> Axes:
    """The axes that were given, or those of a new figure."""
    return new_figure(name).add_subplot() if ax is None else ax


def annotate(ax: Axes, text: str, at: tuple[float, float], offset: float, above: float = 0) -> None:
    """A small label beside a point, ``offset`` in points to its right, and so far above."""
    ax.annotate(
        text, at, xytext=(offset, above), textcoords="offset points", va="center", fontsize=SMALL,
        color=INK, bbox=CLEAR, ha="left" if offset > 0 else "right",
    )  # fmt: skip


def sparse(x: Floats, y: Floats) -> Ints:
    """Which points to draw: all, or of very many one of those that would lie on each other."""
    if len(x) <= DENSE:
        return np.arange(len(x))
    cells = [np.round(_CELLS * (v - v.min()) / (np.ptp(v) or 1.0)) for v in (x, y)]
    return np.sort(np.unique(cells[0] * 1000 + cells[1], return_index=True)[1])


def colour_budgets(ax: Axes, budget: Floats) -> list[tuple[Colour, str]]:
    """The colour and the name of each run's budget, which the legend has, or a strip above the axes."""
    budgets, index = np.unique(budget, return_inverse=True)
    colours = compute_colours(len(budgets))
    names = [("" if i else "C = ") + exponents(value) for i, value in enumerate(budgets)]
    if len(budgets) > _MAX_KEYS:
        _strip(ax, names, colours)
    else:
        for colour, name in zip(colours, names, strict=True):
            ax.plot([], [], "o", color=colour, ms=3, label=name)
    return [(colours[i], names[i]) for i in index]


def draw_runs(ax: Axes, x: Floats, y: Floats, budget: Floats, places: Ints) -> None:
    """A point for each run at one of ``places``, a colour for each budget of all runs."""
    looks = colour_budgets(ax, budget)
    for colour, name in dict.fromkeys(looks[i] for i in places):
        own = np.array([i for i in places if looks[i][1] == name])
        points = ax.plot(x[own], y[own], "o", color=colour, ms=3, mec="white", mew=0.3)
        tag(points, name, tips=own.tolist())


def _strip(ax: Axes, names: Sequence[str], colours: Sequence[Colour]) -> None:
    """A cell of colour for each budget above the axes; a few have their name."""
    count = len(names)
    strip = ax.inset_axes((0.0, 1.03, 1.0, 0.035))
    strip.bar(range(count), 1.0, width=1.0, color=colours, lw=0)
    strip.set(xlim=(-0.5, count - 0.5), ylim=(0, 1), yticks=[])
    named = np.unique(np.linspace(0, count - 1, _MAX_KEYS - 1).round().astype(int))
    strip.set_xticks(named, [names[i] for i in named])
    strip.tick_params(
        labelsize=SMALL, labelcolor=INK, color=FAINT, length=1.5, width=0.4, pad=1, bottom=False,
        top=True, labelbottom=False, labeltop=True,
    )  # fmt: skip
    strip.spines[:].set_visible(False)


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
    axis.set_major_locator(FixedLocator(_ticks(low, high, 4 if shown is exponents else 6)))
    axis.set_major_formatter(FuncFormatter(lambda v, _: shown(v)))
    minor = _of_decades(low, high, range(2, 10)) if 0.9 < np.log10(high / low) < 3.3 else []
    axis.set_minor_locator(FixedLocator(minor) if minor else NullLocator())
    axis.set_minor_formatter(NullFormatter())
    getattr(ax, f"set_{which}lim")(low, high)


def _ticks(low: float, high: float, most: int) -> list[float]:
    """The densest round numbers that are no more than ``most``."""
    if high / low < 4:
        from matplotlib.ticker import MaxNLocator

        ticks = MaxNLocator(most - 1, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        return [float(v) for v in ticks if low <= v <= high]
    for digits in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        choice = _of_decades(low, high, digits)
        if len(choice) <= (most if len(digits) > 1 else 6):
            return choice
    step = -(-len(choice) // 6)
    return choice[step // 2 :: step]


def _of_decades(low: float, high: float, digits: Iterable[float]) -> list[float]:
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    return [d * 10.0**p for p in powers for d in digits if low <= d * 10.0**p <= high]


def finish(ax: Axes, columns: int = 2) -> Figure:
    """A faint grid, two open sides, small type, and a key above the axes; returns the figure."""
    from matplotlib.figure import Figure
    from matplotlib.transforms import ScaledTranslation

    ax.spines[["top", "right"]].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set(color=FAINT, linewidth=0.6)
    ax.grid(True, which="major", color="#e6e6e6", lw=0.5)
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=SMALL, color=FAINT, labelcolor=INK, width=0.6, length=2.5)
    ax.tick_params(which="minor", color=FAINT, width=0.4, length=1.5)
    for axis in (ax.xaxis, ax.yaxis):
        axis.label.set(fontsize=NORMAL, color=INK)
    figure = ax.get_figure(root=True)
    if not isinstance(figure, Figure):
        raise ValueError("expected axes in a figure; these were removed from theirs.")
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        by_rows = [i for column in range(columns) for i in range(column, len(labels), columns)]
        corner = -0.02, 1.14 if ax.child_axes else 1.0  # over a strip
        legend = ax.legend(
            [handles[i] for i in by_rows], [labels[i] for i in by_rows],
            loc="lower left", bbox_to_anchor=corner, ncols=columns, frameon=False, fontsize=SMALL,
            labelcolor=INK, handlelength=1.5, columnspacing=1.0, handletextpad=0.5, borderaxespad=0.2,
            labelspacing=0.3,
        )  # fmt: skip
        if engine := figure.get_layout_engine():
            engine.execute(figure)
            box = legend.get_window_extent()
            over = box.x0 + _HINTED * box.width - figure.bbox.x1  # beyond the right edge
            if over > 0:
                left = ScaledTranslation(-over / figure.dpi, 0, figure.dpi_scale_trans)
                legend.set_bbox_to_anchor(corner, ax.transAxes + left)
    return figure


DARK_PAPER = (22, 24, 28)  # of the page in the dark
_MIN_CONTRAST = 4.5


def tag(artists: Artist | Iterable[Artist], *names: str, tips: Sequence[int | str] = ()) -> None:
    """Put artists into the series of these names in the page, else that of their label.

    Each point or line of it may have a tip: words, or the place of a run among those of the fit. A text
    with a name is a key: it hides and shows the series, as an entry of the legend does.
    """
    for artist in (artists,) if hasattr(artists, "axes") else artists:
        vars(artist)["series"] = (names, tips)


def drawn_runs(figure: Figure) -> set[int]:
    """The places among those of the fit of all runs that the marks of a figure stand for."""
    ax = figure.axes[0]
    tips = (vars(a).get("series", ((), ()))[1] for a in (*ax.lines, *ax.collections))
    return {tip for own in tips for tip in own if isinstance(tip, int)}


def _marked(figure: Figure) -> dict[str, str]:
    """Name all series and keys of a figure; the attributes of each in the page by its name."""
    ax = figure.axes[0]
    legend = ax.get_legend()
    entries = zip(legend.get_texts(), legend.legend_handles, strict=True) if legend else ()
    items = [(a, "series", a.get_label()) for a in (*ax.patches, *ax.collections, *ax.lines)]
    items += [(a, "key", words.get_text()) for words, key in entries for a in (words, key) if a]
    items += [(a, "key", "_") for a in ax.texts]
    marked = {}
    for i, (artist, kind, label) in enumerate(items):
        names, tips = vars(artist).get("series", ((str(label),), ()))
        if names[0].startswith("_"):
            continue
        marked[f"mark{i}"] = f'data-{kind}="{html.escape("|".join(names))}"'
        if kind == "series" and type(artist).__name__ in ("FillBetweenPolyCollection", "Rectangle"):
            marked[f"mark{i}"] += " data-band"
        if len(tips):
            marked[f"mark{i}"] += f' data-tips="{html.escape(json.dumps(list(tips)))}"'
        artist.set_gid(f"mark{i}")
    return marked


def _axes(figure: Figure, box: str) -> str:
    """Where the axes lie in the SVG, and their limits, as JSON for the page."""
    ax = figure.axes[0]
    width, height = (float(v) for v in box.split()[2:])
    (x0, y0), (x1, y1) = ax.get_position().get_points().tolist()
    places = {"x": (x0 * width, x1 * width), "y": ((1 - y0) * height, (1 - y1) * height)}
    out = {}
    for which, at in places.items():
        axis, limits = getattr(ax, f"{which}axis"), getattr(ax, f"get_{which}lim")()
        log, label = axis.get_scale() == "log", axis.label.get_text()
        out[which] = {"label": label, "log": log, "at": at, "limits": [float(v) for v in limits]}
        if not log and type(axis.get_major_formatter()).__name__ != "ScalarFormatter":
            ticks = zip(axis.get_majorticklocs().tolist(), axis.get_ticklabels(), strict=True)
            out[which] |= {"label": "", "names": [(v, words.get_text()) for v, words in ticks]}
    return html.escape(json.dumps(out))


def inline_svg(figure: Figure, title: str, description: str) -> str:
    """A figure as an SVG element whose colours are variables of the page, ``--c`` and the hex code.

    Its series and keys have the names, and its axes the limits, that the page's script works with.
    """
    from matplotlib import rc_context

    name, stream, marked = str(figure.get_label()), io.StringIO(), _marked(figure)
    with text_as_text(), rc_context({"svg.hashsalt": name}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = "<svg" + stream.getvalue().partition("<svg")[2].strip()
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r">\s+<", "><", text)
    # Shorter: fewer digits of places, and a style that all points of a group share stands once.
    text = re.sub(r"<[^>]*>", lambda m: re.sub(r"(\d\.\d{3})\d+", r"\1", m[0]), text)
    text = re.sub(r'<g id="(mark\d+)"', lambda m: f"<g {marked[m[1]]}", text)
    for artist in figure.findobj(lambda a: str(a.get_gid()).startswith("mark")):
        artist.set_gid(None)
    text = re.sub(r' \n(?=[A-Zz"])', "", text)
    text = re.sub(r"<g([^>]*)>((?:<use [^>]*/>){2,})</g>", _share_style, text)
    # Several figures share a page, and names of their parts would meet.
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="|url\()#', rf"\1#{name}-", text)
    code = re.compile(r"#([0-9a-f]{6})\b")
    text = re.sub(r'style="[^"]*"', lambda m: code.sub(r"var(--c\1,#\1)", m[0]), text)
    opening, _, rest = text.partition(">")
    (box,) = re.findall(r'viewBox="([^"]*)"', opening)
    return (
        f'<svg role="img" aria-labelledby="{name}-title" aria-describedby="{name}-desc" '
        f'data-name="{name}" data-axes="{_axes(figure, box)}" xmlns="http://www.w3.org/2000/svg" '
        f'xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box}">'
        f'<title id="{name}-title">{html.escape(title)}</title>'
        f'<desc id="{name}-desc">{html.escape(description)}</desc>{rest}'
    )


def _share_style(group: re.Match[str]) -> str:
    styles = set(re.findall(r' style="[^"]*"', group[2]))
    if len(styles) != 1 or "style" in group[1]:
        return group[0]
    (style,) = styles
    return f"<g{group[1]}{style}>{group[2].replace(style, '')}</g>"


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
