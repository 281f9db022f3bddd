"""Runs left out of a fit, and those whose loss is only known to be high: diverged or hopeless ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from flops_fit.records import Run
from flops_fit.table.cells import Floats

Censored = tuple[float, float, float, float, float]
"""N, D, learning rate, batch, and what the loss would have been at least, NaN where that is not known."""
_STATES = ("diverged", "hopeless")


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
