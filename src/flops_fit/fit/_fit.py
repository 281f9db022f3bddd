"""The result of a fit: a law, how sure it is, and everything that was noticed."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from flops_fit.fit._bootstrap import refits
from flops_fit.fit._diagnose import Outlier, extrapolation_diagnostic, trust_of
from flops_fit.fit._isoflop import IsoFLOP
from flops_fit.fit._prediction import (
    QUANTITIES,
    Interval,
    Prediction,
    bootstrap_intervals,
    check_target,
    log_quantities,
    sandwich_intervals,
)
from flops_fit.fit._residuals import ResidualMap
from flops_fit.fit._select import Choice
from flops_fit.fit._sensitivity import Sensitivity
from flops_fit.fit._solve import Solution
from flops_fit.fit._status import FitStatus
from flops_fit.fit._window import WindowReport
from flops_fit.flops import FlopsFunction
from flops_fit.laws import Law
from flops_fit.records import Diagnostic, Excluded
from flops_fit.table import RunTable

__all__ = ["Alternative", "Fit"]

Floats = NDArray[np.float64]

_PREDICT_DRAWS = 400


@dataclass(frozen=True)
class Alternative:
    """Another law form fitted to the same runs with the same weights."""

    law: Law
    objective: float
    delta: float
    residual_sd: float
    status: FitStatus

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "law": self.law.name,
            "params": self.law.params,
            "objective": self.objective,
            "delta": _finite(self.delta),
            "residual_sd": self.residual_sd,
            "status": str(self.status),
        }


@dataclass(frozen=True, eq=False)
class Fit:
    """A scaling law fitted to runs; made by :func:`flops_fit.fit.fit_runs`.

    Attributes
    ----------
    law
        The fitted law; ``law.params`` holds its constants.
    objective, delta, loss_space
        Σ w·ρ_δ of the residuals (½r² convention) at ``law``, Huber's δ, and whether residuals are
        of ln L (``"log"``) or L (``"linear"``).
    status, diagnostics
        How the solver ended, and every finding with what to do about it.
    runs, weights, residuals
        The runs the law was fitted to, the window's weight of each (0 < w ≤ 1) and z − model.
    excluded, outliers
        Runs left out, each with its reason; runs far off the law, kept but bounded by Huber's δ.
    isoflop
        Approach 2, on the sizes within the window's factor of each vertex: a check beside the
        surface.
    alternatives
        The other law forms on the same runs.
    flops
        F(N), so that C = F(N)·D in every prediction.
    starts, starts_agree
        How many starts the solver had and how many ended at this objective.
    residual_sd
        Robust relative noise of a run around the law (absolute where ``loss_space`` is linear).
    window, choice
        What the window did, and why this law form (``None`` where it was asked for by name).
    sensitivity
        The answer without each budget, without outliers, without the highest losses, at other δ,
        and what the cheaper budgets foretell of the top one and two.
    residual_map
        Mean residuals by compute and distance from the optimum, and a test for a pattern.
    """

    law: Law
    objective: float
    delta: float
    loss_space: Literal["log", "linear"]
    status: FitStatus
    diagnostics: tuple[Diagnostic, ...]
    runs: RunTable
    weights: Floats
    residuals: Floats
    excluded: tuple[Excluded, ...]
    outliers: tuple[Outlier, ...]
    isoflop: IsoFLOP
    alternatives: tuple[Alternative, ...]
    flops: FlopsFunction
    starts: int
    starts_agree: int
    residual_sd: float
    window: WindowReport
    choice: Choice | None
    sensitivity: Sensitivity
    residual_map: ResidualMap
    _solution: Solution = field(repr=False)
    _rival: Solution | None = field(default=None, repr=False)

    @property
    def trust(self) -> Literal["ok", "caution", "no"]:
        """From the worst diagnostic: critical is "no", a warning "caution"."""
        return trust_of(self.diagnostics)

    @property
    def exponents(self) -> tuple[float, float]:
        """(a, b) of N* ∝ C^a and D* ∝ C^b where F(N) = k·N; their sum is 1."""
        values = self.law.params
        if "alpha" not in values or "beta" not in values:
            raise AttributeError(f"{type(self.law).__name__} has no exponents alpha and beta.")
        a = values["beta"] / (values["alpha"] + values["beta"])
        return a, 1 - a

    @property
    def noise_sd(self) -> float:
        """What one new run scatters by around the law: the root mean square residual."""
        return self._solution.noise_sd * self._solution.points.unit

    @property
    def dof(self) -> int:
        """Fitted runs less parameters."""
        return self._solution.dof

    @property
    def largest_compute(self) -> float:
        """C of the largest fitted run."""
        return float(np.max(self.runs.flops))

    def predict(self, C: float, level: float = 0.9) -> Prediction:
        """The compute-optimal N, D and loss at C training FLOPs, with intervals.

        Parameters
        ----------
        C
            Training FLOPs.
        level
            Probability that a central interval is meant to hold.

        Returns
        -------
        Prediction
            Intervals are HC3 sandwich intervals with Student t, on the log scale. A fit with a
            fixed δ far below the noise gets case-bootstrap percentiles: few of its residuals carry
            curvature, and its sandwich covers too little. Where ``law="auto"`` stayed with the
            additive law, each interval spans the κ-law's too: a test that does not reject κ = 1 is
            no proof of it.
        """
        check_target(C, level)
        C = float(C)
        N, D, L, ratio = (float(v) for v in np.exp(log_quantities(self.law, C, self.flops)))
        intervals, method, notes = self._intervals(C, level)
        extrapolation = C / self.largest_compute
        far = extrapolation_diagnostic(extrapolation)
        return Prediction(
            target_compute=C,
            optimal_params=N,
            optimal_tokens=D,
            expected_loss=L,
            tokens_per_param=ratio,
            intervals=intervals,
            level=level,
            unit=self.runs.unit,
            extrapolation=extrapolation,
            form_spread=self._form_spread(C),
            interval_method=method,
            diagnostics=(*notes, *((far,) if far else ())),
        )

    def bootstrap(
        self, n: int = 1000, kind: Literal["case", "wild", "parametric"] = "case", seed: int = 0
    ) -> Floats:
        """The law's constants over ``n`` refits to resampled runs, shape (n, len(law.params)).

        Columns are in the order of ``law.params``. Runs, never whole budgets, are resampled.
        """
        thetas = refits(self._solution, n, kind, seed)
        return self._solution.points.constants(thetas)[:, : len(self.law.params)]

    def to_dict(self) -> dict[str, Any]:
        """Everything that matters as plain values for JSON."""
        return {
            "law": self.law.name,
            "formula": self.law.formula,
            "params": self.law.params,
            "objective": self.objective,
            "delta": _finite(self.delta),
            "loss_space": self.loss_space,
            "status": self.status.name.lower(),
            "status_text": str(self.status),
            "trust": self.trust,
            "starts": self.starts,
            "starts_agree": self.starts_agree,
            "residual_sd": self.residual_sd,
            "flops": self.flops.description,
            "unit": self.runs.unit,
            "diagnostics": [vars(d) for d in self.diagnostics],
            "excluded": [vars(e) for e in self.excluded],
            "outliers": [vars(o) for o in self.outliers],
            "isoflop": self.isoflop.to_dict(),
            "alternatives": [a.to_dict() for a in self.alternatives],
            "window": vars(self.window),
            "choice": vars(self.choice) if self.choice else None,
            "sensitivity": self.sensitivity.to_dict(),
            "residual_map": self.residual_map.to_dict(),
            "runs": [
                {**row, "weight": float(w), "residual": float(r)}
                for row, w, r in zip(
                    self.runs.to_dicts(), self.weights, self.residuals, strict=True
                )
            ],
        }

    def _intervals(
        self, C: float, level: float
    ) -> tuple[dict[str, Interval | None], str, list[Diagnostic]]:
        """Intervals, the method's name and what to say about them."""
        none: dict[str, Interval | None] = dict.fromkeys(QUANTITIES)
        beyond = [b for b in self._solution.bounds if not b.startswith(("E ", "kappa"))]
        if beyond or not self.status.usable:
            why = f"no interval: {', '.join(beyond) or 'the solver did not converge'}"
            return none, "none", [Diagnostic("no_interval", "critical", why, "add runs")]
        notes = []
        for bound in self._solution.bounds:
            how = "carry the error it would have off it" if bound[0] == "E" else "hold it there"
            text = f"{bound}: intervals {how}"
            notes.append(Diagnostic("interval_at_bound", "warning", text, "add larger budgets"))
        if self._resamples:
            intervals = bootstrap_intervals(self._drawn_laws, C, self.flops, level)
            return intervals, "case bootstrap", notes
        intervals, reason = sandwich_intervals(self._solution, C, self.flops, level)
        if reason:
            text = f"no interval: {reason}"
            notes.append(Diagnostic("no_interval", "warning", text, "add runs"))
        if self._rival is not None:
            rival, reason = sandwich_intervals(self._rival, C, self.flops, level)
            if not reason:
                intervals = {name: _hull(intervals[name], rival[name]) for name in QUANTITIES}
        method = "none" if all(v is None for v in intervals.values()) else "HC3 sandwich"
        return intervals, method, notes

    @property
    def _resamples(self) -> bool:
        # A MAD δ is 1.345 sd; below half of that Huber is nearly L1 and its sandwich too narrow.
        return self._solution.full is not None and self.delta < 0.67 * self.residual_sd

    @cached_property
    def _drawn_laws(self) -> list[Law]:
        solution = self._solution
        thetas = refits(solution, _PREDICT_DRAWS, "case", 0)
        return [solution.points.law_at(theta, solution.law.name) for theta in thetas]

    def _form_spread(self, C: float) -> dict[str, Interval]:
        """The range of each quantity over the forms that have an optimum."""
        laws = [self.law]
        laws += [
            a.law for a in self.alternatives if a.status in (FitStatus.OK, FitStatus.BOUND_HIT)
        ]
        rows = [log_quantities(law, C, self.flops) for law in laws]
        if self.isoflop.usable and self.isoflop.n_line is not None:
            N = float(self.isoflop.n_line(C))
            D = C / float(self.flops(N))
            loss = float(self.law.loss(N, D))
            rows.append(np.log([N, D, loss, D / N]))
        values = np.exp(np.array(rows))
        low, high = values.min(axis=0), values.max(axis=0)
        return {q: (float(a), float(b)) for q, a, b in zip(QUANTITIES, low, high, strict=True)}


def _hull(first: Interval | None, second: Interval | None) -> Interval | None:
    if first is None or second is None:
        return None
    return min(first[0], second[0]), max(first[1], second[1])


def _finite(value: float) -> float | str:
    return value if np.isfinite(value) else "inf"
