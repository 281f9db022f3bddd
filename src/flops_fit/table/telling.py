"""What the other columns of a table tell: epochs, settings that differ, runs listed more than once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from flops_fit.records import Diagnostic
from flops_fit.table.cells import HEADINGS, is_missing
from flops_fit.table.columns import Raw
from flops_fit.table.quantities import Quantities
from flops_fit.text import listed

Floats = NDArray[np.float64]

_SETTINGS = frozenset(HEADINGS["settings"]["numbers"].split())
_VISIBLE = 0.01  # of the loss


def telling(
    raw: Raw, read: Quantities, kept: Sequence[int], label: str | None
) -> tuple[Diagnostic, ...]:
    """The findings about the runs that are kept."""
    out: list[Diagnostic] = []
    N, D, loss = (read.data[name][kept] for name in ("params", "tokens", "loss"))
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
        spread = float(np.median([np.ptp(loss[r]) / np.abs(np.mean(loss[r])) for r in same]))
        text = (
            f"{sum(map(len, same))} runs share N and D with others and differ in "
            f"{listed(differing, separator=', ')}: their losses differ by {100 * spread:.2g} %"
        )
        action = "keep the best run of each N and D: runs of untuned settings lift the law"
        severity = "warning" if spread > _VISIBLE else "note"
        out.append(Diagnostic("settings_differ", severity, text, action))  # type: ignore[arg-type]
    if label is not None:
        out += _repeated_names(label, texts[label], N, D, "step" in read.others)
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
