"""How sure a quantity of a fitted law is: HC3 sandwich, Student's t, and refits to resampled runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from flops_fit.checks import check_number
from flops_fit.errors import InputError, InputTypeError
from flops_fit.fit.solver import Solution
from flops_fit.flops.functions import FlopsFunction
from flops_fit.laws.law import Law
from flops_fit.records import Diagnostic
from flops_fit.table.run_table import RunTable

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Interval = tuple[float, float]
LogQuantities = Callable[[Law], Floats]

_FULL_LEVERAGE = 0.999
_DRAWS = 400
_WIDEST_LOG_HALF = np.log(1e6)
KINDS = ("case", "wild", "parametric")


@dataclass(frozen=True, eq=False)
class Covariance:
    """Covariance of a solution's free coordinates; ``reason`` says why there is none."""

    matrix: Floats | None
    dof: int
    leverage: Floats
    reason: str = ""


def covariance(solution: Solution) -> Covariance:
    """HC3 (MacKinnon & White 1985) of an M-estimator, with its IRLS weights ω = w·ψ(r)/r.

    c²·(JᵀωJ)⁻¹ · Σ ω²r²/(1−h)² JJᵀ · (JᵀωJ)⁻¹, where h is the leverage of each run under ω. It
    stays valid where noise differs between runs; dividing by (1−h)² makes it cautious where a
    single run decides a direction. The asymptotic curvature of Huber's loss is JᵀE[ψ′]J (Huber
    1981, §7.6), smaller than JᵀωJ: c = Σω / Σwψ′ makes up for that, and is 1 for least squares.
    Runs of one cluster (a shared trunk or seed) enter the middle as their sum.
    """
    s = solution
    return hc3(s.jacobian, s.residuals, s.weights, s.delta, s.dof, s.points.groups)


def hc3(
    J: Floats, r: Floats, w: Floats, delta: float, dof: int, groups: NDArray[np.intp] | None = None
) -> Covariance:
    """The sandwich of :func:`covariance` from its parts: Jacobian (runs, k), residuals, weights."""
    size = np.maximum(np.abs(r), 1e-300)
    omega = w * np.minimum(1.0, delta / size)
    leverage = np.zeros_like(r)
    if dof < 1:
        return Covariance(None, dof, leverage, "there are no more runs than parameters")
    scale = np.sqrt(np.sum(omega[:, None] * J**2, axis=0))
    if np.any(scale == 0):
        return Covariance(None, dof, leverage, "a parameter leaves the loss unchanged")
    q, upper = np.linalg.qr(np.sqrt(omega)[:, None] * J / scale)
    diagonal = np.abs(np.diag(upper))
    if np.min(diagonal) < 1e-10 * np.max(diagonal):
        return Covariance(None, dof, leverage, "the parameters cannot be told apart")
    leverage = np.sum(q**2, axis=1)
    if np.max(leverage) > _FULL_LEVERAGE:
        return Covariance(None, dof, leverage, "a single run decides a parameter alone")
    influence = q * (np.sqrt(omega) * r / (1 - leverage))[:, None]
    if groups is not None:  # one degree of freedom a cluster
        summed = np.zeros((int(groups.max()) + 1, influence.shape[1]))
        np.add.at(summed, groups, influence)
        influence = summed
        dof += len(np.unique(groups[w > 0])) - int(np.count_nonzero(w))
        if dof < 1:
            return Covariance(None, dof, leverage, "there are no more clusters than parameters")
    inside = float(np.sum(w * (size <= delta)))
    correction = float(np.sum(omega)) / max(inside, 0.25 * float(np.sum(w)))
    half = np.linalg.inv(upper) @ influence.T * max(correction, 1.0)
    return Covariance(half @ half.T / np.outer(scale, scale), dof, leverage)


def gradient_of(
    solution: Solution, quantity: Callable[[Law], Floats], step: float = 1e-4
) -> Floats:
    """Central differences of quantities of the law over its free coordinates: (quantities, k)."""
    theta, law_at = solution.theta, solution.law_at
    columns = []
    for i in range(len(theta)):
        move = np.zeros_like(theta)
        move[i] = h = step * max(abs(float(theta[i])), 0.1)
        columns.append((quantity(law_at(theta + move)) - quantity(law_at(theta - move))) / (2 * h))
    return np.column_stack(columns)


def student_t(level: float, dof: int) -> float:
    """The two-sided Student-t factor of a central interval at ``level``."""
    from scipy.special import stdtrit

    return float(stdtrit(dof, 0.5 + level / 2))


def drawn_laws(solution: Solution, n: int, kind: str, seed: int) -> list[Law]:
    """The law refitted to ``n`` resamples of its runs, from where the fit ended.

    - ``"case"``: runs (clusters of runs, where there are some) drawn with replacement, as integer
      weights on the same points.
    - ``"wild"``: fitted values plus residuals/(1−h) times ±1 (Davidson & Flachaire 2008).
    - ``"parametric"``: fitted values plus normal noise of the residuals' robust sd.
    """
    if kind not in KINDS:
        raise InputError(f"expected kind='case', 'wild' or 'parametric'; got {kind!r}.")
    rng = np.random.default_rng(seed)
    points, shape = solution.points, (n, len(solution.points.z))
    weights, targets = np.broadcast_to(solution.weights, shape), np.broadcast_to(points.z, shape)
    if kind == "case":
        used = np.flatnonzero(solution.weights)
        units = used if points.groups is None else points.groups[used]
        units = np.unique(units, return_inverse=True)[1].ravel()
        count = int(units.max()) + 1
        drawn = np.zeros(shape)
        drawn[:, used] = rng.multinomial(count, np.full(count, 1 / count), size=n)[:, units]
        weights = drawn * solution.weights
    else:
        if kind == "wild":
            leverage = np.minimum(covariance(solution).leverage, 0.9)
            noise = rng.choice([-1.0, 1.0], size=shape) * solution.residuals / (1 - leverage)
        else:
            noise = rng.normal(0.0, solution.residual_sd, size=shape)
        targets = points.z - solution.residuals + noise
        targets = targets if points.log else np.maximum(targets, 1e-6)
    return solution.solver.refit(solution, weights, targets, solution.delta)


@dataclass(frozen=True)
class Estimate:
    """A quantity of the fitted law and how sure it is.

    ``value`` is that at the fitted law, ``inf`` where it is out of reach. ``interval`` is (low,
    high) at ``level``, or ``None`` where there is no reliable one; ``method`` is
    ``"HC3 sandwich"``, ``"case bootstrap"`` or ``"none"``. ``reason`` says why there is no
    interval, or what limits the one there is. ``diagnostics`` say how far the question lies from
    the runs.
    """

    value: float
    interval: Interval | None
    level: float
    method: str
    reason: str = ""
    diagnostics: tuple[Diagnostic, ...] = ()

    def __str__(self) -> str:
        if self.interval is None:
            return f"{self.value:.4g} (no interval: {self.reason})"
        low, high = self.interval
        return f"{self.value:.4g} ({low:.4g}–{high:.4g}, {100 * self.level:g} %)"


@dataclass(frozen=True)
class Intervals:
    """An interval or ``None`` for each of several quantities, and what to say about them."""

    spans: tuple[Interval | None, ...]
    method: str
    notes: tuple[Diagnostic, ...]

    @property
    def reason(self) -> str:
        """The notes as one sentence."""
        return "; ".join(note.message.removeprefix("no interval: ") for note in self.notes)


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a fit knows beyond its law: enough to give any quantity of it an interval.

    ``rival`` is a solution of another form that the runs do not rule out: every interval spans its
    own as well.
    """

    solution: Solution
    rival: Solution | None
    runs: RunTable
    flops: FlopsFunction

    @property
    def law(self) -> Law:
        """The fitted law."""
        return self.solution.law

    @property
    def resamples(self) -> bool:
        """Whether intervals come from resampled runs instead of the sandwich."""
        # A MAD δ is 1.345 sd; below half of that Huber is nearly L1 and its sandwich too narrow.
        s = self.solution
        return s.delta < 0.67 * s.residual_sd

    @property
    def no_interval(self) -> str:
        """Why nothing of this law has an interval; empty where it may have one."""
        if self.solution.optimum_lost:
            return ", ".join(map(str, self.solution.optimum_lost))
        return "" if self.solution.converged else "the solver did not converge"

    @cached_property
    def drawn_laws(self) -> list[Law]:
        """The law refitted to resampled runs."""
        return drawn_laws(self.solution, _DRAWS, "case", 0)

    def intervals(self, quantities: LogQuantities, names: Sequence[str], level: float) -> Intervals:
        """Intervals of quantities given by their logs.

        The HC3 sandwich with Student's t by the delta method; percentiles over refits where δ lies
        far below the noise; none where a bound binds that the quantity depends on.
        """
        if self.no_interval:
            text = f"no interval: {self.no_interval}"
            lost = Diagnostic("no_interval", "critical", text, "add runs")
            return Intervals((None,) * len(names), "none", (lost,))
        notes = []
        for bound in self.solution.bounds:
            how = "carry the error it would have off it"
            text = f"{bound}: intervals {how if bound.parameter == 'E' else 'hold it there'}"
            notes.append(Diagnostic("interval_at_bound", "warning", text, "add larger budgets"))
        if self.resamples:
            method, reason = "case bootstrap", ""
            centre, low, high = _percentiles(self, quantities, level)
        else:
            method, reason = "HC3 sandwich", covariance(self.solution).reason
            centre, low, high = _sandwich(self.solution, quantities, len(names), level)
            if self.rival is not None:  # span its interval too, where it has one
                _, lower, higher = _sandwich(self.rival, quantities, len(names), level)
                lost_here = np.isnan(low)
                low = np.where(lost_here, np.nan, np.fmin(low, lower))
                high = np.where(lost_here, np.nan, np.fmax(high, higher))
        if reason := reason or _lost(names, centre, low):
            text = f"no interval: {reason}"
            notes.append(Diagnostic("no_interval", "warning", text, "add runs"))
        spans = tuple(
            None if np.isnan(a) else (float(np.exp(a)), float(np.exp(b)))
            for a, b in zip(low, high, strict=True)
        )
        return Intervals(spans, method if any(spans) else "none", tuple(notes))


def estimate(evidence: Evidence, quantity: Callable[[Law], float], level: float) -> Estimate:
    """See :meth:`flops_fit.fit.Fit.estimate`."""
    check_level(level)
    if not callable(quantity):
        raise InputTypeError(
            f"expected a function of the law, such as lambda law: law.loss(1e9, 2e10); "
            f"got {quantity!r}."
        )
    value = _number(quantity(evidence.law))
    if not value > 0:
        raise InputError(
            f"expected a positive quantity, as intervals are made on its log; it is {value:.4g} at "
            "the fitted law. Ask for one that stays positive."
        )
    if not np.isfinite(value):
        return Estimate(value, None, level, "none", "the fitted law does not reach it")

    def log_value(law: Law) -> Floats:
        near = _number(quantity(law))
        return np.array([np.log(near) if near > 0 else np.nan])

    interval = evidence.intervals(log_value, ("the quantity",), level)
    return Estimate(value, interval.spans[0], level, interval.method, interval.reason)


def check_level(level: float) -> None:
    """Refuse a level that is not between 0 and 1."""
    check_number("level", level, above=0, below=1, expected="a number between 0 and 1, such as 0.9")


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise InputTypeError(
            f"expected one number from the quantity; got {type(value).__name__}."
        ) from error


def _sandwich(solution: Solution, quantities: LogQuantities, count: int, level: float) -> Floats:
    """Ln q and the ends ln q ± t·se by the delta method, shape (3, count); NaN: no interval."""
    cov = covariance(solution)
    if cov.matrix is None:
        return np.full((3, count), np.nan)
    with np.errstate(invalid="ignore"):
        centre = quantities(solution.law)
        gradient = gradient_of(solution, quantities)
        variance = np.einsum("qi,ij,qj->q", gradient, cov.matrix, gradient)
    half = student_t(level, cov.dof) * np.sqrt(np.maximum(variance, 0.0))
    # A NaN compares as false: a law near the fitted one that has no such quantity.
    half[~(np.isfinite(centre) & (half < _WIDEST_LOG_HALF))] = np.nan
    return np.array([centre, centre - half, centre + half])


def _percentiles(evidence: Evidence, quantities: LogQuantities, level: float) -> Floats:
    """Ln q and percentiles of refits, shape (3, q); NaN where a tail's share of them lacks q."""
    centre = quantities(evidence.law)
    draws = np.array([quantities(law) for law in evidence.drawn_laws])
    finite = np.isfinite(draws)
    sound = np.isfinite(centre) & (np.mean(~finite, axis=0) < 0.5 - level / 2)
    ends = np.full((2, len(centre)), np.nan)
    for i in np.flatnonzero(sound):
        ends[:, i] = np.quantile(draws[finite[:, i], i], [0.5 - level / 2, 0.5 + level / 2])
    return np.vstack([centre, ends])


def _lost(names: Sequence[str], centre: Floats, low: Floats) -> str:
    """What has no interval, in words: the law does not reach it, or the runs do not tell."""
    beyond = [n for n, c in zip(names, centre, strict=True) if not np.isfinite(c)]
    unsure = [n for n, a in zip(names, low, strict=True) if np.isnan(a) and n not in beyond]
    parts = [f"the runs do not determine {', '.join(unsure)}"] if unsure else []
    if beyond:
        parts.append(f"the fitted law does not reach {', '.join(beyond)}")
    return "; ".join(parts)
