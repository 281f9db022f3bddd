"""What the other columns of a table tell: epochs, settings that differ, runs listed more than once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from flops_fit.records import Diagnostic
from flops_fit.table.cells import HEADINGS, is_missing
from flops_fit.table.columns import NUMERIC, Raw, find_text, rank
from flops_fit.table.quantities import Quantities
from flops_fit.text import listed

Floats = NDArray[np.float64]

_SETTINGS = frozenset(HEADINGS["settings"]["numbers"].split())
_VISIBLE = 0.01  # of the loss
_MOST_KINDS, _FEWEST_EACH = 12, 3
_CERTAIN = 8.0  # the F ratio of what a kind explains


def telling(
    raw: Raw, read: Quantities, kept: Sequence[int], label: str | None
) -> tuple[Diagnostic, ...]:
    """The findings about the runs that are kept, and about those of a loss below zero."""
    out: list[Diagnostic] = []
    N, D, loss = (read.data[name][kept] for name in ("params", "tokens", "loss"))
    count = int(np.sum(read.data["loss"] <= 0))
    if count:
        text = f"{count} of {raw.rows} runs, those of the lowest loss, have no positive loss and are left out"
        action = (
            "add a constant to every loss so that all are positive, and take it off the answers"
        )
        out.append(Diagnostic("loss_not_positive", "critical", text, action))
    if not kept:
        return tuple(out)
    texts = {h: ["" if is_missing(c[i]) else str(c[i]) for i in kept] for h, c in raw.cells.items()}
    if read.asks_epochs:
        most, column = np.nanmax(read.others["epochs"][kept]), read.matches["tokens"].column
        text = (
            f"the runs have up to {most:.3g} epochs; nothing says whether {column!r} counts repeats"
        )
        action = f"give tokens seen and unique_tokens, or flops: C may be {most:.3g} times what was fitted"
        out.append(Diagnostic("epochs", "warning", text, action))
    same = [rows for rows in _grouped(zip(N.tolist(), D.tolist(), strict=True)) if len(rows) > 1]
    differing = [
        h
        for h, cells in texts.items()
        if h.strip().lower().replace(" ", "_").replace(".", "/").split("/")[-1] in _SETTINGS
        and any(len({cells[i] for i in rows}) > 1 for rows in same)
    ]
    if differing:
        spread = float(np.median([np.ptp(np.log(loss[rows])) for rows in same]))
        text = (
            f"{sum(map(len, same))} runs share N and D with others and differ in "
            f"{listed(differing, separator=', ')}: their losses differ by {100 * spread:.2g} %"
        )
        action = "keep the best run of each N and D: runs of untuned settings lift the law"
        severity = "warning" if spread > _VISIBLE else "note"
        out.append(Diagnostic("settings_differ", severity, text, action))  # type: ignore[arg-type]
    if label is not None:
        out += _repeated_names(label, texts[label], N, D, "step" in read.others)
    known = {m.column for m in read.matches.values()} | {label}
    known |= {find_text(name, list(texts)) for name in ("state", "cluster")}
    for heading in texts.keys() - known:
        if not any(rank(name, heading) for name in NUMERIC):
            out += _kinds(heading, texts[heading], N, D, loss)
    return tuple(out)


def _grouped(keys: Iterable[object]) -> list[list[int]]:
    """The rows of each key."""
    rows: dict[object, list[int]] = defaultdict(list)
    for i, key in enumerate(keys):
        rows[key].append(i)
    return list(rows.values())


def _repeated_names(
    label: str, names: list[str], N: Floats, D: Floats, steps: bool
) -> list[Diagnostic]:
    """Names that stand in several rows of one size: points along one run, or its repeats."""
    several = [
        r for r in _grouped(names) if names[r[0]] and len(r) > 1 and len(np.unique(N[r])) == 1
    ]
    if 2 * sum(map(len, several)) < len(names):
        return []
    shown = listed([repr(names[r[0]]) for r in several], 3, ", ")
    text = f"{len(several)} names in {label!r} stand in several rows of one size ({shown})"
    if any(len(np.unique(D[r])) < len(r) for r in several):
        return [Diagnostic("names_repeat", "note", text, "repeats show the noise of a seed")]
    action = "of points along one run keep the last under a decaying learning rate; name each run"
    if steps:
        text += ": this looks like a log of steps"
    return [Diagnostic("names_repeat", "warning" if steps else "note", text, action)]


def _kinds(heading: str, cells: list[str], N: Floats, D: Floats, loss: Floats) -> list[Diagnostic]:
    """A column of words that parts the runs into kinds whose losses lie apart at equal N and D."""
    kinds = sorted(set(cells))
    which = np.array([kinds.index(cell) for cell in cells]) if len(kinds) <= _MOST_KINDS else None
    words = any(c.isalpha() for kind in kinds for c in kind)
    if which is None or len(kinds) < 2 or not words or np.min(np.bincount(which)) < _FEWEST_EACH:
        return []
    x, y = np.log(N) - np.log(N).mean(), np.log(D) - np.log(D).mean()
    surface = np.column_stack([np.ones_like(x), x, y, x * x, x * y, y * y])
    shifts = np.column_stack([which == k for k in range(1, len(kinds))]).astype(float)
    both, z = np.column_stack([surface, shifts]), np.log(loss)
    freedom = len(z) - both.shape[1]
    counts = ", ".join(f"{np.sum(which == k)} {kind!r}" for k, kind in enumerate(kinds[:4]))
    text = f"{heading!r} parts the runs into {len(kinds)} kinds ({counts}) that are fitted as one"
    action = "fit each kind by itself: select the rows of one"
    if freedom < 4 or np.linalg.matrix_rank(both) < both.shape[1]:
        follows = all(len({cells[i] for i in rows}) == 1 for rows in _grouped(N.tolist()))
        return [] if follows else [Diagnostic("kinds", "note", text, action)]
    one, two = (np.linalg.lstsq(b, z, rcond=None)[0] for b in (surface, both))
    spent, left = (float(np.sum((z - b @ c) ** 2)) for b, c in ((surface, one), (both, two)))
    apart = float(np.ptp([0.0, *two[surface.shape[1] :]]))
    certain = (spent - left) / shifts.shape[1] > _CERTAIN * max(left / freedom, 1e-16)
    if not certain or apart <= _VISIBLE:
        return []
    text += f": at equal N and D their losses lie {100 * apart:.2g} % apart"
    return [Diagnostic("kinds", "warning", text, action)]
