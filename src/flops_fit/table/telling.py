"""What the other columns of a table tell of its runs: epochs, settings that differ, names that repeat."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from flops_fit.records import SIMULATED, Diagnostic, Findings
from flops_fit.table.cells import WORDS, Floats, is_missing
from flops_fit.table.columns import Raw
from flops_fit.table.headings import plain_name
from flops_fit.table.quantities import Quantities
from flops_fit.text import listed

_EQUAL_STEPS, _LOGGED = 1.1, 6  # between readings along a run, and how many make a log
_MOST_STEPS = 0.8  # of all gaps: the first reading and the last may stand off the grid
_FOLLOWS, _RATES_DIFFER = 0.8, 1.5  # R² of ln lr on ln N and ln D, and the spread around it
_VISIBLE = 0.01  # of the loss
_finding = Findings(Path(__file__).with_name("findings.toml"))


def telling(
    raw: Raw, read: Quantities, kept: Sequence[int], label: str | None
) -> tuple[Diagnostic, ...]:
    """The findings about the runs that are kept."""
    if not kept:
        return ()
    out = [SIMULATED] if "mock" in map(str, raw.cells.get("device", ())) else []
    N, D, loss = (read.data[name][kept] for name in ("params", "tokens", "loss"))
    texts = {
        h: ["" if is_missing(c[i]) else str(c[i]) for i in kept]
        for h, c in raw.cells.items()
        if h == label or _setting(h)
    }

    def most(name: str) -> float:
        return float(np.nanmax(read.others[name][kept], initial=0.0))

    if read.asks_epochs and (of := most("epochs")):
        column = read.matches["tokens"].column
        out.append(_finding("epochs", most=of, column=column))
    if read.off_steps is not None:
        off, counted = read.off_steps
        severe: Literal["warning", "note"] = "note" if 0.5 <= off <= 2 else "warning"
        out.append(_finding("tokens_differ", severe, off=off, words=counted))
    if read.asks_length and (of := most("seq_len")):
        column = read.matches["tokens"].column
        out.append(_finding("lengths", most=of, column=column))
    if read.asks_active and (of := most("experts")):
        out.append(_finding("experts", most=of))
    same = [rows for rows in _grouped(zip(N.tolist(), D.tolist(), strict=True)) if len(rows) > 1]
    differing = [
        h
        for h, cells in texts.items()
        if _setting(h) and any(len({cells[i] for i in rows}) > 1 for rows in same)
    ]
    if differing:
        spread = float(np.median([np.ptp(loss[r]) / np.abs(np.mean(loss[r])) for r in same]))
        words = {"runs": sum(map(len, same)), "names": listed(differing, separator=", ")}
        how: Literal["warning", "note"] = "warning" if spread > _VISIBLE else "note"
        out.append(_finding("settings_differ", how, spread=100 * spread, **words))
    elif stray := _stray_rates(read.others.get("lr"), kept, N, D):
        out.append(_finding("rates_differ", factor=stray))
    repeats = _repeats(label, texts[label], N, D, "step" in read.others) if label else []
    logged = [r for r in _grouped(N.tolist()) if len(r) > _LOGGED and _evenly(D[r])]
    warned = any(d.severity == "warning" for d in repeats)
    if 2 * sum(map(len, logged)) > len(N) and not warned:
        repeats = [_finding("log_of_steps", number=len(logged))]
    return (*out, *repeats)


def _setting(heading: str) -> bool:
    plain = heading.strip().lower().replace(" ", "_").replace(".", "/")
    return plain.split("/")[-1] in WORDS["settings"]


def _evenly(D: Floats) -> bool:
    """Whether D grows by equal steps, as it does along a run."""
    gaps = np.diff(np.unique(D))
    if len(gaps) < _LOGGED:
        return False
    alike = np.abs(np.log(gaps / np.median(gaps))) < np.log(_EQUAL_STEPS)
    return bool(np.mean(alike) >= _MOST_STEPS)


def _stray_rates(lr: Floats | None, kept: Sequence[int], N: Floats, D: Floats) -> float:
    """By which factor learning rates scatter around a power law of N and D; 0 where they follow one."""
    if lr is None or len(kept) < 2 * _LOGGED or not np.all((lr[kept] > 0) & (lr[kept] < np.inf)):
        return 0.0
    y, x = np.log(lr[kept]), np.log(np.column_stack([np.full(len(N), np.e), N, D]))
    left = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    factor = float(np.exp(np.std(left)))
    follows = np.sum(left**2) <= (1 - _FOLLOWS) * np.sum((y - y.mean()) ** 2)
    return 0.0 if follows or factor < _RATES_DIFFER else factor


def _grouped(keys: Iterable[object]) -> list[list[int]]:
    rows: dict[object, list[int]] = defaultdict(list)
    for i, key in enumerate(keys):
        rows[key].append(i)
    return list(rows.values())


def _repeats(label: str, names: list[str], N: Floats, D: Floats, steps: bool) -> list[Diagnostic]:
    """Names that stand in several rows of one size: points along one run, or its repeats."""
    several = [r for r in _grouped(names) if names[r[0]] and len(r) > 1 and np.ptp(N[r]) == 0]
    if 2 * sum(map(len, several)) < len(names):
        return []
    shown = listed([repr(names[r[0]]) for r in several], 3, ", ")
    of_runs = plain_name(label) in WORDS["of_runs"]  # a model's name may stand for its size
    key = "names_of_steps" if steps or of_runs else "names_repeat"
    if any(len(np.unique(D[r])) < len(r) for r in several):
        key = "names_of_repeats"
    return [_finding(key, number=len(several), label=label, shown=shown)]
