"""Runs left out of a fit, and those whose loss is only known to be high: diverged or hopeless ones."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flops_fit.records import Run
from flops_fit.table.cells import WORDS, Floats
from flops_fit.table.columns import Raw
from flops_fit.table.headings import plain_name

Censored = tuple[float, float, float, float, float]
"""N, D, learning rate, batch, and what the loss would have been at least, NaN where that is not known."""
_STATES = ("diverged", "hopeless")
_ROUNDED = 2e-3  # of a mean loss
_FLAGS = {"true": True, "yes": True, "1": True, "1.0": True}
_FLAGS |= {"false": False, "no": False, "0": False, "0.0": False}


@dataclass(frozen=True)
class Excluded:
    """A run left out of the fit, and why.

    ``by_outcome`` where its own course is the reason, such as divergence: such runs are no random part.
    Then ``budget``, ``params`` and ``loss``, or what that is ``at_least``, are what is known of it.
    """

    label: str
    reason: str
    by_outcome: bool = False
    budget: float | None = None
    params: float | None = None
    loss: float | None = None
    at_least: float | None = None

    @classmethod
    def known(cls, label: str, reason: str, known: Mapping[str, float | None]) -> Excluded:
        """Left out by its outcome if anything is ``known`` of it; numbers that are not finite are not."""
        sound = {name: v for name, v in known.items() if v is not None and math.isfinite(v)}
        budget = sound.get("budget") or sound.get("flops")
        of_loss = sound.get("loss"), sound.get("at_least")
        return cls(label, reason, bool(known), budget, sound.get("params"), *of_loss)


def censored_run(run: Run) -> list[Censored]:
    """What a run without a loss says of law and valley; nothing where it failed for other reasons."""
    if run.state not in _STATES:
        return []
    e, bound = run.experiment, run.loss_at_least
    settings = e.hparams.lr, e.hparams.batch_units
    least = math.nan if bound is None else bound
    return [(float(e.params.total), float(e.tokens), *settings, least)]


def censored_rows(
    states: Mapping[int, str],
    data: Mapping[str, Floats],
    lr: Floats | None,
    batch: Floats | None,
    at_least: Floats | None,
) -> tuple[Censored, ...]:
    """Rows without a finite loss whose state does not say another reason than theirs."""
    if lr is None and batch is None:
        return ()
    N, D, loss = data["params"], data["tokens"], data["loss"]
    none = np.full(len(loss), np.nan)
    bound = none if at_least is None else at_least
    if "budget" in data:  # D of a run that was stopped is that of its plan
        short = np.isfinite(bound) & (data["flops"] > 0)
        D = np.array(D)
        D[short] *= data["budget"][short] / data["flops"][short]
    columns = (N, D, *(np.ones(len(loss)) if c is None else c for c in (lr, batch)))
    rows = np.array([*columns, bound]).T
    known = np.all(np.isfinite(rows[:, :4]) & (rows[:, :4] > 0), axis=1) & ~np.isfinite(loss)
    words = {i: word.lower() for i, word in states.items()}
    return tuple(
        (n, d, rate, size, least)
        for i, (n, d, rate, size, least) in enumerate(rows.tolist())
        if known[i] and words.get(i, "diverged") in _STATES
    )


def flags(raw: Raw, last: bool = False) -> dict[int, str]:
    """The rows that a true-or-false column marks as failed; with ``last``, as not the last of their run."""
    good = WORDS["final"] if last else WORDS["finished"] - WORDS["final"]
    bad = frozenset() if last else WORDS["failed"]
    out: dict[int, str] = {}
    for h, cells in raw.cells.items():
        if (name := plain_name(h)) in good | bad:
            says = [_FLAGS.get(str(cell).strip().lower()) for cell in cells]
            off = [i for i, yes in enumerate(says) if yes is (name in bad)]
            if None not in says and len(off) < len(says):
                out |= {i: f"its {h} is {cells[i]}" for i in off}
    return out


def totals(raw: Raw, labels: Sequence[str], data: Mapping[str, Floats]) -> dict[int, str]:
    """Rows that sum the others up, by a word in a label or seed, or the last one by its numbers."""
    texts = [cells for h, cells in raw.cells.items() if _tells_seeds(h)]
    last_words = {
        i: word
        for cells in (labels, *texts)
        for i, cell in enumerate(cells)
        if (word := re.split(r"[\s_/-]+", f" {cell}".strip(" :.*").lower())[-1])
        in WORDS["summaries"]
    }
    if len(last_words) == len(labels):  # a table of means has no other runs
        last_words = {i: w for i, w in last_words.items() if w not in WORDS["means"]}
    out = {i: f"{word!r} says that it sums up other rows" for i, word in last_words.items()}
    last, names = len(labels) - 1, ("params", "tokens", "loss")
    others = [data[n][:last][np.isfinite(data[n][:last])] for n in names]
    if last < 3 or not all(len(v) and np.ptp(v) > 0 for v in others[:2]):
        return out
    ends = [data[n][last] for n in names]
    for what, f in (("sum", np.sum), ("mean", np.mean)):
        alike = [abs(f(v) - e) < 1e-6 * e for v, e in zip(others[:2], ends, strict=False)]
        # A run in the middle of the others has their mean N and D, and a loss of its own.
        known = what == "mean" and len(others[2]) and np.isfinite(ends[2])
        own = known and abs(np.mean(others[2]) - ends[2]) > _ROUNDED * abs(ends[2])
        if all(alike) and not own:
            out[last] = f"its N and D are the {what} of those above"
    return out


def _tells_seeds(heading: str) -> bool:
    words = set(re.split(r"[\W_]+", heading.lower()))
    return bool(words & {"seed", "stat", "statistic", "aggregate", "aggregation", "replicate"})
