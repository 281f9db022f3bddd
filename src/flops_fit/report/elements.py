"""Pieces of HTML that sections are made of; all text is escaped here."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_TALL = 15  # rows


@dataclass(frozen=True)
class Cell:
    """Text of a table's cell, what is in brackets smaller.

    It sorts by ``value`` where there is one. ``wide`` text wraps.
    """

    text: str
    value: float | None = None
    wide: bool = False

    def html(self) -> str:
        """The cell as an element."""
        number = self.value is not None and self.value == self.value
        attributes = f' data-v="{self.value!r}"' if number else ""
        attributes += ' class="text"' if self.wide else ""
        text, bracket, interval = self.text.partition(" (")
        small = f" <small>({html.escape(interval)}</small>" if bracket else ""
        return f"<td{attributes}>{html.escape(text)}{small}</td>"


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    caption: str,
    *,
    sortable: bool = False,
    name: str = "",
) -> str:
    """A table with a caption in a box that scrolls by itself, on wide content and by keyboard.

    Parameters
    ----------
    head
        Names of the columns.
    rows
        The cells of each row.
    caption
        Told below the table.
    sortable
        Whether a click on a column's name sorts by it.
    name
        What the box is called for those who cannot see it; the caption's beginning by default.

    A table of many rows scrolls in a box of limited height.
    """
    cells = (
        f'<th scope="col" aria-sort="none"><button type="button">{html.escape(h)}</button></th>'
        if sortable
        else f'<th scope="col">{html.escape(h)}</th>'
        for h in head
    )
    lines = ["<tr>" + "".join(c.html() for c in row) + "</tr>" for row in rows]
    tall = " tall" if len(lines) > _TALL else ""
    label = html.escape(name or caption.split(".")[0], quote=True)
    return (
        f'<div class="scroll{tall}" role="region" tabindex="0" aria-label="{label}">'
        f"<table><caption><span>{html.escape(caption)}</span></caption><thead><tr>{''.join(cells)}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def markdown_table(markdown: str, name: str) -> str:
    """A Markdown table with a note in its last line as HTML."""
    lines = markdown.splitlines()
    rows = [
        [c.strip() for c in line.strip("|").split("|")] for line in lines if line.startswith("| ")
    ]
    return table(rows[0], ([Cell(c) for c in row] for row in rows[1:]), lines[-1], name=name)


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph, of a class where one is given."""
    opening = f'<p class="{kind}">' if kind else "<p>"
    return f"{opening}{html.escape(text)}</p>"
