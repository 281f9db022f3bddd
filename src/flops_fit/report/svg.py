"""Figures inside a page: small SVG with text as text, a title to be read out, and a dark version."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from flops_fit.report.style import text_as_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_COLOUR = re.compile(r"#([0-9a-f]{6})\b")
_STYLED = re.compile(r'style="[^"]*"')
_PAPER = (22, 24, 28)  # of the page in the dark
_CONTRAST = 4.5


def inline_svg(figure: Figure, title: str, description: str) -> str:
    """A figure as an SVG element whose colours are variables of the page, ``--c`` and the hex code."""
    from matplotlib import rc_context

    name = str(figure.get_label())
    stream = io.StringIO()
    with text_as_text(), rc_context({"svg.hashsalt": name}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r">\s+<", "><", text)
    # Several figures share a page, and names of their parts would meet.
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="|url\()#', rf"\1#{name}-", text)
    text = _STYLED.sub(lambda found: _COLOUR.sub(r"var(--c\1,#\1)", found[0]), text)
    head = (
        f'<title id="{name}-title">{html.escape(title)}</title>'
        f'<desc id="{name}-desc">{html.escape(description)}</desc>'
    )
    opening = re.match(r"<svg[^>]*>", text)
    if opening is None:
        raise ValueError("expected an SVG element from matplotlib; got other text.")
    size = re.search(r'viewBox="[^"]*"', opening[0])
    start = (
        f'<svg role="img" aria-labelledby="{name}-title" aria-describedby="{name}-desc" '
        f'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f"{size[0] if size else ''}>"
    )
    return start + head + text[opening.end() :]


def colours_of(svgs: Iterable[str]) -> list[str]:
    """The hex codes that figures of :func:`inline_svg` use, each once."""
    return sorted({code for svg in svgs for code in re.findall(r"var\(--c([0-9a-f]{6}),", svg)})


def dark_colour(code: str) -> str:
    """A colour for dark paper: greys turned around, others lightened until they can be read.

    Contrast is that of WCAG 2.2, (L₁ + 0.05)/(L₂ + 0.05) of relative luminances.
    """
    rgb = tuple(int(code[i : i + 2], 16) for i in (0, 2, 4))
    if max(rgb) - min(rgb) < 12:
        share = 1 - sum(rgb) / (3 * 255)
        mixed = tuple(round(p + share * (236 - p)) for p in _PAPER)
    else:
        mixed, white = rgb, 0.0
        while _contrast(mixed) < _CONTRAST and white < 1:
            white += 0.02
            mixed = tuple(round(c + white * (255 - c)) for c in rgb)
    return "#" + "".join(f"{c:02x}" for c in mixed)


def _contrast(rgb: tuple[int, ...]) -> float:
    return (_luminance(rgb) + 0.05) / (_luminance(_PAPER) + 0.05)


def _luminance(rgb: tuple[int, ...]) -> float:
    linear = [
        v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in rgb)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
