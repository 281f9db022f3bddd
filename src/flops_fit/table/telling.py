"""What the other columns of a table tell: epochs, settings that differ, runs listed more than once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

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
_FEW_KINDS = 12
_FEWEST = 3  # runs of each kind


def telling(
    raw: Raw, read: Quantities, kept: Sequence[int], label: str | None
) -> tuple[Diagnostic, ...]:
    """The findings about all runs that are kept."""
    index = np.asarray(kept, dtype=np.intp)
    if len(index) == 0:
        return ()
    data = {name: values[index] for name, values in read.data.items()}
    texts = {
        h: ["" if is_missing(v := cells[i]) else str(v) for i in kept]
        for h, cells in raw.cells.items()
    }
    out = [*_epochs(read, index), *_left_out(read, index)]
    groups: dict[tuple[float, float], list[int]] = defaultdict(list)
    for i, point in enumerate(zip(data["params"].tolist(), data["tokens"].tolist(), strict=True)):
        groups[point].append(i)
    repeated = [rows for rows in groups.values() if len(rows) > 1]
    out += _repeated_settings(raw, texts, data["loss"], repeated)
    if label is not None:
        out += _repeated_names(label, texts[label], data, "step" in read.others)
    return (*out, *_kinds(raw, read, texts, data, label))


def _epochs(read: Quantities, index: NDArray[np.intp]) -> list[Diagnostic]:
    if not read.asks_epochs:
        return []
    most = float(np.nanmax(read.others["epochs"][index]))
    column = read.matches["tokens"].column
    text = (
        f"the runs have up to {most:.3g} epochs, and nothing says whether {column!r} counts repeats"
    )
    action = (
        "give tokens seen, D = data × epochs, and unique_tokens beside them; or flops as spent. "
        f"If {column!r} counts each token once, C and D are {most:.3g} times what was fitted"
    )
    return [Diagnostic("epochs", "warning", text, action)]


def _left_out(read: Quantities, index: NDArray[np.intp]) -> list[Diagnostic]:
    """A loss that crosses zero: what is left out are the best runs."""
    loss = read.data["loss"]
    count = int(np.sum(loss <= 0))
    if not count:
        return []
    text = f"{count} of {len(loss)} runs, those of the lowest loss, have no positive loss and are left out"
    action = "add a constant to every loss so that all are positive, and take it off the answers"
    return [Diagnostic("loss_not_positive", "critical", text, action)]


def _repeated_settings(
    raw: Raw, texts: dict[str, list[str]], loss: Floats, repeated: list[list[int]]
) -> list[Diagnostic]:
    """Runs of one N and D that differ in a setting, such as sweeps of the learning rate."""
    differing = []
    for heading, cells in texts.items():
        setting = (
            heading.strip().lower().replace(" ", "_").split("/")[-1].split(".")[-1] in _SETTINGS
        )
        if setting and any(len({cells[i] for i in rows}) > 1 for rows in repeated):
            differing.append(heading)
    if not differing:
        return []
    spread = float(np.median([np.ptp(np.log(loss[rows])) for rows in repeated]))
    text = (
        f"{sum(map(len, repeated))} runs share N and D with others and differ in "
        f"{listed(differing, separator=', ')}: their losses differ by {100 * spread:.2g} %"
    )
    action = "keep the best run of each N and D: runs of untuned settings lift the law"
    return [Diagnostic("settings_differ", "warning" if spread > _VISIBLE else "note", text, action)]


def _repeated_names(
    label: str, names: list[str], data: dict[str, Floats], steps: bool
) -> list[Diagnostic]:
    """Names that stand in several rows with one N: points along one run, or its repeats."""
    rows: dict[str, list[int]] = defaultdict(list)
    for i, name in enumerate(names):
        if name:
            rows[name].append(i)
    several = {
        n: r for n, r in rows.items() if len(r) > 1 and len(np.unique(data["params"][r])) == 1
    }
    along = {n: r for n, r in several.items() if len(np.unique(data["tokens"][r])) == len(r)}
    if 2 * sum(map(len, several.values())) < len(names):
        return []
    shown = listed([repr(n) for n in several], 3, ", ")
    text = f"{len(several)} names in {label!r} stand in several rows of one size ({shown})"
    if len(along) < len(several):
        return [Diagnostic("names_repeat", "note", text, "repeats show the noise of a seed")]
    text += ": this looks like a log of steps" if steps else ""
    action = (
        "under a decaying learning rate keep the last row of each run; if they are runs, name each"
    )
    return [Diagnostic("names_repeat", "warning" if steps else "note", text, action)]


def _kinds(
    raw: Raw,
    read: Quantities,
    texts: dict[str, list[str]],
    data: dict[str, Floats],
    label: str | None,
) -> list[Diagnostic]:
    """Columns of words that part the runs into kinds, with how far their losses lie apart."""
    known = {match.column for match in read.matches.values()}
    known |= {h for name in ("state", "cluster") if (h := find_text(name, list(texts)))}
    out = []
    for heading, cells in texts.items():
        if heading in known or heading == label or any(rank(name, heading) for name in NUMERIC):
            continue
        kinds = sorted(set(cells))
        if not 2 <= len(kinds) <= _FEW_KINDS or any(map(_is_number, kinds)):
            continue
        which = np.array([kinds.index(cell) for cell in cells])
        if np.min(np.bincount(which)) < _FEWEST or _follows(which, data):
            continue
        apart = _apart(which, data)
        counts = ", ".join(f"{np.sum(which == k)} {name!r}" for k, name in enumerate(kinds[:4]))
        text = (
            f"{heading!r} parts the runs into {len(kinds)} kinds ({counts}) that are fitted as one"
        )
        if apart is None:
            out.append(Diagnostic("kinds", "note", text, "fit each kind by itself if they differ"))
        elif apart > _VISIBLE:
            text += f": at equal N and D their losses lie {100 * apart:.2g} % apart"
            action = "fit each kind by itself: select the rows of one"
            out.append(Diagnostic("kinds", "warning", text, action))
    return out


def _is_number(text: str) -> bool:
    return any(c.isdigit() for c in text) and not any(c.isalpha() for c in text)


def _follows(which: NDArray[np.intp], data: dict[str, Floats]) -> bool:
    """Whether the kind is another word for N, or for the compute."""
    for values in (data["params"], data.get("budget", data["flops"])):
        if all(len(np.unique(which[values == v])) == 1 for v in np.unique(values)):
            return len(np.unique(values)) < len(values)
    return False


def _apart(which: NDArray[np.intp], data: dict[str, Floats]) -> float | None:
    """How far the kinds' ln L lie apart on one quadratic surface, where that is beyond their noise."""
    x, y = (np.log(data[n]) - np.mean(np.log(data[n])) for n in ("params", "tokens"))
    basis = np.column_stack([np.ones_like(x), x, y, x * x, x * y, y * y])
    shifts = np.column_stack([which == k for k in range(1, int(which.max()) + 1)]).astype(float)
    both = np.column_stack([basis, shifts])
    if len(x) < both.shape[1] + 4:
        return None
    z = np.log(data["loss"])
    rest = [z - b @ np.linalg.lstsq(b, z, rcond=None)[0] for b in (basis, both)]
    spent, left = (float(r @ r) for r in rest)
    fixed = np.linalg.lstsq(both, z, rcond=None)[0][basis.shape[1] :]
    freedom, extra = len(x) - both.shape[1], shifts.shape[1]
    beyond = (spent - left) / extra > 8 * max(left / freedom, 1e-16)
    return float(np.ptp([0.0, *fixed])) if beyond else 0.0
