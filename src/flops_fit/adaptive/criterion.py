"""How much runs would tell about N* at a target, by the model of the fit's own intervals.

That model is law plus misfit plus noise (:mod:`flops_fit.fit.misfit`), with coordinates β of
information M, prior included. A run to come has the row J/σ, J the slopes of ln L over β and σ its
noise. With c = ∂ ln N*/∂β at the target, cᵀM⁻¹c is the variance of ln N*; choosing the runs that make
it smallest is c-optimal design (Elfving 1952; Atkinson, Donev & Tobias 2007, §10.4).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flops_fit.adaptive.candidates import Candidates
from flops_fit.fit.intervals import DrawnOptima, Evidence
from flops_fit.fit.misfit import trust_weights
from flops_fit.table.run_table import RunTable

Floats = NDArray[np.float64]

LEVEL = 0.9
_SPACING = 0.7  # in ln N, of three points whose parabola has the optimum
_EXCHANGE_ROUNDS = 8


@dataclass(frozen=True, eq=False)
class Criterion:
    """What the runs of a fit tell about N* at a target compute, and what more would add."""

    evidence: Evidence
    target: float

    @cached_property
    def optima(self) -> DrawnOptima:
        """The fit's drawn optima at the target."""
        return self.evidence.optima(self.target)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The fit's 90 % interval of N* at the target."""
        if self.evidence.no_interval:
            return None
        return self.evidence.span(self.optima.params, LEVEL)

    @cached_property
    def half_width(self) -> float:
        """Half the log width of that interval; infinite if there is none."""
        span = self.interval
        return float("inf") if span is None else float(np.log(span[1] / span[0])) / 2

    @cached_property
    def direction(self) -> Floats:
        """The change c of ln N* with each coordinate, by the implicit function theorem."""
        local, flops = self.evidence.posterior.gaussian, self.evidence.flops
        best = np.log(local.mean.law(local.eta).optimal(self.target, flops).params)
        N = np.exp(best + _SPACING * np.array([-1.0, 0.0, 1.0]))
        values, rows = local.rows(N, self.target / np.asarray(flops(N)))
        bend = values[0] - 2 * values[1] + values[2]
        return np.asarray((rows[0] - rows[2]) * _SPACING / (2 * bend))

    @cached_property
    def variance(self) -> float:
        """Of ln N* at the target, from the runs so far."""
        information = self.evidence.posterior.gaussian.information
        return float(self.direction @ np.linalg.solve(information, self.direction))

    def narrowed(self, variance: float) -> float:
        """The half-width once the variance has fallen to this."""
        return self.half_width * float(np.sqrt(variance / self.variance))

    def after(self, runs: Candidates) -> float:
        """The variance of ln N* once these are made too."""
        return self.pool(runs, float(np.max(runs.flops))).after

    def distance(self, runs: Candidates | RunTable) -> Floats:
        """ln(N/N*) of runs by the fitted law."""
        best = np.log(self.evidence.law.optimal(runs.flops, self.evidence.flops).params)
        return np.asarray(np.log(runs.params) - best)

    def predictions(self, runs: Candidates) -> list[tuple[float, float]]:
        """(ln L, standard deviation) of runs to come, noise included."""
        surface = self.evidence.posterior
        logs = np.log(surface.one_run(surface.losses(runs.params, runs.tokens)))
        return list(zip(logs.mean(axis=0).tolist(), logs.std(axis=0).tolist(), strict=True))

    def pool(self, runs: Candidates, largest: float = 0.0) -> Pool:
        """What each of these runs would tell if the largest of all then has this compute."""
        evidence, local = self.evidence, self.evidence.posterior.gaussian
        known, tilt = float(np.max(evidence.runs.flops)), evidence.prior.tilt
        largest = max(largest, known)
        # The runs so far then count less.
        so_far = (known / largest) ** tilt * (local.information - local.prior)
        ask = (runs.params, runs.flops, largest, evidence.flops, evidence.prior)
        trust = trust_weights(evidence.law, *ask)
        rows = local.rows(runs.params, runs.tokens)[1]
        rows *= np.sqrt(trust)[:, None] / local.noise
        solved = np.linalg.solve(local.prior + so_far, np.column_stack([self.direction, rows.T]))
        variance = float(self.direction @ solved[:, 0])
        return Pool(runs, rows @ solved[:, 0], rows @ solved[:, 1:], variance)


@dataclass(frozen=True, eq=False)
class Pool:
    """Runs to come, in units of their noise: covariances with ln N* and with each other."""

    runs: Candidates
    pull: Floats  # shape (runs,)
    cross: Floats  # shape (runs, runs)
    variance: float  # of ln N* without them

    def pick(self, index: Any) -> Pool:
        """Those at ``index``, positions, which may repeat."""
        cross = self.cross[np.ix_(index, index)]
        return Pool(self.runs.pick(index), self.pull[index], cross, self.variance)

    @property
    def after(self) -> float:
        """The variance of ln N* once all are made."""
        told = np.linalg.solve(np.eye(len(self.pull)) + self.cross, self.pull)
        return self.variance - float(self.pull @ told)

    def exchange(self, count: int, spend: float, fixed: tuple[int, ...] = ()) -> list[int]:
        """Positions of up to ``count`` runs for at most ``spend`` FLOPs, of least variance.

        Fedorov's exchange (1972): slots are refilled one at a time with the best run that is
        affordable, until no change helps; ``fixed`` are in already.
        """
        cost, pull, cross = self.runs.prices, self.pull.copy(), self.cross.copy()
        slots: list[int | None] = [None] * (count - len(fixed))
        taken: list[int] = []
        left = spend

        def move(i: int, sign: int) -> None:
            """Take a run (1) or give it back (−1): what it tells leaves the others, or returns."""
            nonlocal left, pull, cross
            share = cross[i] / (sign + cross[i, i])
            pull, cross = pull - share * pull[i], cross - np.outer(share, cross[i])
            left -= sign * cost[i]
            (taken.append if sign > 0 else taken.remove)(i)

        for i in fixed:
            move(i, 1)
        for _ in range(_EXCHANGE_ROUNDS):
            changed = False
            for s, old in enumerate(slots):
                if old is not None:
                    move(old, -1)
                gain = pull**2 / (1 + np.diag(cross))
                gain[cost > left + spend * 1e-9] = -1.0
                if not self.runs.repeats:
                    gain[taken] = -1.0
                best = int(np.argmax(gain))
                new = None if gain[best] < 0 else best
                if new is not None and old is not None and gain[new] <= gain[old] * (1 + 1e-9):
                    new = old
                if new is not None:
                    move(new, 1)
                changed, slots[s] = changed or new != old, new
            if not changed:
                break
        return [*fixed, *sorted(i for i in slots if i is not None)]
