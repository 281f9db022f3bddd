"""Numbers, times and tables as people read them."""

from __future__ import annotations

import codecs
import html
import io
import os
import re
import string
import sys
import traceback
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


_SPELT = {
    "–": "-", "—": "-", "−": "-", "×": "x", "·": "*", "•": "*", "→": "->", "≤": "<=", "≥": ">=",
    "≈": "~", "≠": "!=", "∝": "~", "±": "+/-", "√": "sqrt", "∞": "inf", "’": "'", "─": "-", "│": "|",
    "├": "+", "└": "+",
}  # fmt: skip


# What moves a cursor, hides or turns text round, but for tabs and ends of lines.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_HOST = re.compile(r"(\bprocess \d+) on [^\s,;)]+")  # as a lease names its holder
_COLOUR = re.compile(r"(\x1b\[[\d;]*m)")


def visible(text: str, colour: bool = False) -> str:
    r"""Text with control characters spelt out, but for those of ``colour`` where it is wanted.

    >>> visible("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    if text.isprintable():  # a fast path: tables have a million cells
        return text
    parts = _COLOUR.split(text) if colour else [text]
    parts[::2] = [
        _CONTROL.sub(lambda m: m[0].encode("unicode_escape").decode(), part) for part in parts[::2]
    ]
    return "".join(parts)


def anonymous(text: str) -> str:
    """Text to be published: without the path of the user's folder, and the host of a process."""
    home = os.path.join(os.path.expanduser("~"), "")
    text = text.replace(home, "~/") if len(home) > 1 else text
    return _HOST.sub(r"\1", text)


def _spelt(error: UnicodeError) -> tuple[str, int]:
    """What an encoding lacks in ASCII: ``<=`` for ``≤``, ``alpha``, ``2`` for ``²``, else ``?``."""
    assert isinstance(error, UnicodeEncodeError)
    out = []
    for c in error.object[error.start : error.end]:
        name = unicodedata.name(c, "")
        greek = name.rpartition(" ")[2].lower() if name.startswith("GREEK") else ""
        plain = unicodedata.normalize("NFKD", c).encode("ascii", "ignore").decode()
        out.append(_SPELT.get(c) or greek or plain or "?")
    return "".join(out), error.end


def spell_out() -> None:
    """Let standard output and error write in ASCII what their encodings lack."""
    codecs.register_error("flops-fit", _spelt)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="flops-fit")


def format_count(value: float, zeros: bool = False) -> str:
    """A count with a suffix: 12,345,678 is ``12.3M``; with ``zeros``, 12,000,000 is ``12.0M``."""
    if value != value:
        return "–"
    for limit, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if limit <= value < 1e15:
            scaled = value / limit
            shown = f"{scaled:#.3g}".rstrip(".") if zeros else f"{scaled:.3g}"
            return f"{shown if scaled < 999.5 else f'{scaled:.0f}'}{suffix}"
    return f"{value:#.3g}".rstrip(".") if zeros and 1e-3 <= value < 1e3 else f"{value:.3g}"


def shown_count(value: float) -> str:
    """A count as tables and answers have it: three digits with their zeros."""
    return format_count(value, zeros=True)


class _Words(string.Formatter):
    def format_field(self, value: Any, format_spec: str) -> Any:
        if format_spec == "count":
            return format_count(value, zeros=True)
        return super().format_field(value, format_spec)


def fill(words: str, values: Mapping[str, Any]) -> str:
    """``words.format(**values)``, where ``{N:count}`` is a count with a suffix."""
    return _Words().vformat(words, (), values)


def clause(sentence: str) -> str:
    """A sentence as a clause: it begins small, but for names and symbols, and has no full stop.

    >>> clause("The runs are few."), clause("A batch is."), clause("N reaches 3"), clause("FLOPs are")
    ('the runs are few', 'a batch is', 'N reaches 3', 'FLOPs are')
    """
    ordinary = re.match(r"[A-Z][a-z]+\b(?!['_.(])|A (?!=)", sentence)
    begin = sentence[:1].lower() if ordinary else sentence[:1]
    return begin + sentence[1:].removesuffix(".")


def constants(params: Mapping[str, float]) -> str:
    """The constants of a law under the symbols of its formula: ``E = 1.8, α = 0.34``."""
    greek = {"alpha": "α", "beta": "β", "kappa": "κ"}
    return ", ".join(f"{greek.get(name, name)} = {value:.4g}" for name, value in params.items())


def sentence(said: str) -> str:
    """A clause as a sentence, where it stands by itself."""
    return f"{said[:1].upper()}{said[1:]}."


def span(low: float, high: float, form: str = ".3g") -> str:
    """``2 to 3``, or ``2`` where both read alike."""
    return " to ".join(dict.fromkeys((format(low, form), format(high, form))))


def format_percent(half: float) -> str:
    """A relative half-width: ±38 %, or a factor 2.5 either way."""
    return f"±{100 * half:.2g} %" if half < 0.995 else f"a factor {1 + half:.2g} either way"


def format_regret(value: float | None) -> str:
    """A loss above the best, relative to it: 3.10%, or, beyond twice the loss, 8 times the loss."""
    if value is None:
        return "–"
    return f"{value:.2%}" if value < 1 else f"{1 + value:.2g} times the loss"


def format_duration(value: float) -> str:
    """A duration: ``0.4 s``, ``3 min 20 s``, ``2.5 h``, ``4.2 d``."""
    if value < 10:
        return f"{value:.1f} s"
    if value < 60:
        return f"{value:.0f} s"
    if value < 3600:
        return f"{int(value // 60)} min {int(value % 60):02d} s"
    if value < 48 * 3600:
        return f"{value / 3600:.1f} h"
    return f"{value / 86400:.1f} d"


def listed(items: Sequence[str], limit: int = 5, separator: str = "; ") -> str:
    """The first items in one line, and how many more there are."""
    more = len(items) - limit
    rest = f"{separator.strip(', ')} and {more:,} more" if more > 0 else ""
    return separator.join(items[:limit]) + rest


def error_line(error: BaseException) -> str:
    """The class of an error and the first line of what it says, if it says anything."""
    try:
        said = str(error).strip().splitlines()
    except Exception:  # an exception of the user's may fail to say what it is
        said = []
    return f"{type(error).__name__}: {said[0]}" if said else type(error).__name__


def user_line(error: BaseException) -> str:
    """Where in the user's own code an error was raised: `` (model.py, line 12: return self.b(x))``."""
    own = str(Path(__file__).parent)
    for f in reversed(traceback.extract_tb(error.__traceback__)):
        if not f.filename.startswith((own, "<frozen")) and "site-packages" not in f.filename:
            return f" ({Path(f.filename).name}, line {f.lineno}: {f.line})"
    return ""


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """An aligned Markdown table, the first row its head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) + " |" for r in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def render(renderable: Any, width: int = 120) -> str:
    """A rich renderable as plain text."""
    from rich.console import Console

    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(renderable)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def values_table(title: str, columns: Iterable[str], left: int = 1, **options: Any) -> Table:
    """A table for a terminal, without rows; all columns but the first ``left`` are aligned right."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", **options)
    for place, name in enumerate(columns):
        table.add_column(name, justify="left" if place < left else "right", no_wrap=True)
    return table


def card(title: str, rows: Sequence[Sequence[str]], notes: Iterable[str] = ()) -> str:
    """A small table for a notebook, its first row the head: escaped, and styled inline."""
    cell = (
        "padding:.15em .8em .15em 0;text-align:left;border-bottom:1px solid rgba(128,128,128,.35)"
    )
    lines = []
    for i, row in enumerate(rows):
        tag, scope = ("th", ' scope="col"') if i == 0 else ("td", "")
        cells = "".join(f'<{tag}{scope} style="{cell}">{html.escape(c)}</{tag}>' for c in row)
        lines.append(f"<tr>{cells}</tr>")
    body = "".join(lines)
    table = (
        f'<table style="border-collapse:collapse;background:none">{body}</table>' if rows else ""
    )
    below = "".join(f'<div style="margin-top:.3em">{html.escape(note)}</div>' for note in notes)
    return (
        '<div style="font-size:.92em;overflow-x:auto">'
        f'<div style="font-weight:600;margin-bottom:.3em">{html.escape(title)}</div>{table}{below}</div>'
    )
