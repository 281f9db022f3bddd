"""Numbers, times and tables as people read them."""

from __future__ import annotations

import io
from typing import Any

__all__ = ["count", "error_line", "percent", "render", "seconds"]


def count(value: float) -> str:
    """A count with a suffix: 12,345,678 is ``12.3M``."""
    if value != value:
        return "–"
    for limit, suffix in ((1e15, ""), (1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if limit == 1e15 and value >= limit:
            return f"{value:.3g}"
        if value >= limit:
            return (
                f"{value / limit:.3g}{suffix}"
                if value / limit < 999.5
                else f"{value / limit:.0f}{suffix}"
            )
    return f"{value:.3g}"


def percent(half: float) -> str:
    """A relative half-width: ±38 %, or a factor 2.5 either way."""
    return f"±{100 * half:.2g} %" if half < 0.995 else f"a factor {1 + half:.2g} either way"


def seconds(value: float) -> str:
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


def error_line(error: BaseException) -> str:
    """The class of an error and the first line of what it says, if it says anything."""
    try:
        said = str(error).strip().splitlines()
    except Exception:  # an exception of the user's may fail to say what it is
        said = []
    return f"{type(error).__name__}: {said[0]}" if said else type(error).__name__


def render(renderable: Any, width: int = 120) -> str:
    """A rich renderable as plain text."""
    from rich.console import Console

    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(renderable)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())
