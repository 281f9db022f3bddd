"""How sure a quantity of a fit is: what the drawn surfaces say of it, and the law's own covariance."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from flops_fit.errors import InputError, InputTypeError, check_choice, check_number, is_number
from flops_fit.fit.misfit import DRAWS, Posterior, Tuned, posterior
from flops_fit.fit.misfit_mean import Belief, MisfitPrior
from flops_fit.fit.solver import Solution, huber_weight, one_blas_thread
from flops_fit.flops.functions import Floats, FlopsFunction, Indices
from flops_fit.laws.law import Law
from flops_fit.laws.optimum import spend
from flops_fit.records import Diagnostic
from flops_fit.table.run_table import RunTable

Interval = tuple[float, float]

_FULL_LEVERAGE = 0.999


@dataclass(frozen=True, eq=False)
class Covariance:
    """Covariance of a solution's free coordinates; ``reason`` says why there is none."""

    matrix: Floats | None
    dof: int
    leverage: Floats
    reason: str = ""


def covariance(solution: Solution) -> Covariance:
    """HC3 (MacKinnon & White 1985) of an M-estimator, with its IRLS weights ω = w·ψ(r)/r.

    c²·(JᵀωJ)⁻¹ · Σ ω²r²/(1−h)² JJᵀ · (JᵀωJ)⁻¹, h the leverage of a run under ω. The curvature of
    Huber's loss is JᵀE[ψ′]J (Huber 1981, §7.6), smaller than JᵀωJ: c = Σω / Σwψ′ makes up for that.
    Runs of one cluster (a shared trunk or seed) enter the middle as their sum.
    """
    s = solution
    return hc3(s.jacobian, s.residuals, s.weights, s.delta, s.dof, s.points.groups)


def hc3(
    J: Floats, r: Floats, w: Floats, delta: float, dof: int, groups: Indices | None = None
) -> Covariance:
    """The sandwich of :func:`covariance` from its parts: Jacobian (runs, k), residuals, weights."""
    omega = w * huber_weight(r, delta)
    leverage = np.zeros_like(r)
    if dof < 1:
        return Covariance(None, dof, leverage, "there are no more runs than parameters")
    scale = np.sqrt(np.sum(omega[:, None] * J**2, axis=0))
    if np.any(scale == 0) or not len(scale):
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
    inside = float(np.sum(w * (np.abs(r) <= delta)))
    correction = float(np.sum(omega)) / max(inside, 0.25 * float(np.sum(w)))
    half = np.linalg.inv(upper) @ influence.T * max(correction, 1.0)
    return Covariance(half @ half.T / np.outer(scale, scale), dof, leverage)


def student_t(level: float, dof: int) -> float:
    """The two-sided Student-t factor of a central interval at ``level``."""
    from scipy.special import stdtrit

    return float(stdtrit(dof, 0.5 + level / 2))


def drawn_laws(solution: Solution, n: int, kind: str, seed: int) -> list[Law]:
    """The law refitted to ``n`` resamples of its runs, from where the fit ended.

    ``"case"`` draws runs (or clusters of them) with replacement, ``"wild"`` adds residuals/(1−h)
    times ±1 (Davidson & Flachaire 2008), ``"parametric"`` normal noise of the residuals' robust sd.
    """
    check_choice("kind", kind, ("case", "wild", "parametric"))
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


METHOD = "law, misfit and noise"
_WIDEST = np.log(1e4)  # how far from the fitted optimum a drawn one is searched
_COARSE, _FINE = 61, 81
_MARGIN = 2.0  # in ln N, of the fine grid beyond the drawn optima
_WINDOW = np.log(5.0)  # of the parabola through a drawn bowl


@dataclass(frozen=True)
class Estimate:
    """A quantity of the fitted surface and how sure it is.

    ``value`` is the median of the drawn surfaces, ``inf`` where it is out of reach. ``interval`` is
    (low, high) at ``level``, or ``None`` where there is no reliable one; ``method`` is ``"law, misfit
    and noise"`` or ``"none"``. ``run_interval``, for a loss, is that of one run instead of the mean
    of many. ``reason`` says why there is no interval, or what limits the one there is.
    ``diagnostics`` say how far the question lies from the runs.
    """

    value: float
    interval: Interval | None
    level: float
    method: str
    reason: str = ""
    diagnostics: tuple[Diagnostic, ...] = ()
    run_interval: Interval | None = None

    def __str__(self) -> str:
        if self.interval is None:
            return f"{self.value:.4g} (no interval: {self.reason})"
        run = "; one run {:.4g}–{:.4g}".format(*self.run_interval) if self.run_interval else ""
        low, high = self.interval
        return f"{self.value:.4g} ({low:.4g}–{high:.4g}, {100 * self.level:g} %{run})"


@dataclass(frozen=True, eq=False)
class DrawnOptima:
    """The optimum at one budget on each drawn surface: arrays of shape (draws, 4).

    Two of the four are the lowest point, the others the vertex of the parabola through the sizes
    within ×5, as approach 2 has it, without what the law's own skew moves it, and as it is. A skewed
    bowl has both optima. ``free`` are the sizes without caps.
    """

    params: Floats
    tokens: Floats
    loss: Floats
    run_loss: Floats
    free: Floats


@dataclass(frozen=True, eq=False)
class DrawnLaw(Law):
    """One drawn surface as a law: the constants of ``law``, the loss with the misfit."""

    law: Law
    surface: Posterior

    @property
    def params(self) -> dict[str, float]:
        """The constants that were drawn."""
        return self.law.params

    @property
    def exponent(self) -> float:
        """Of the law that was drawn."""
        return self.law.exponent

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "law":  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.law, name)

    def loss(self, N: ArrayLike, D: ArrayLike) -> Any:
        """Loss at N parameters and D units."""
        N, D = np.broadcast_arrays(np.asarray(N, float), np.asarray(D, float))
        values = self.surface.losses(N.ravel(), D.ravel())[0].reshape(N.shape)
        return values if values.ndim else float(values)

    def _start_size(self, C: Floats, k: Floats) -> Floats:
        return self.law._start_size(C, k)


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a fit knows beyond its law: drawn surfaces that give any quantity an interval.

    ``base`` says how much each run counts, before the window; ``hold_kappa`` that the additive law
    was asked for, ``known`` which of its constants were given, ``tuned`` how sure the runs' losses are
    where they were freed of learning rate and batch.
    """

    solution: Solution
    runs: RunTable
    flops: FlopsFunction
    base: Floats
    hold_kappa: bool = False
    prior: MisfitPrior = field(default_factory=MisfitPrior)
    known: Belief | None = None
    tuned: Tuned | None = None

    @property
    def law(self) -> Law:
        """The fitted law."""
        return self.solution.law

    @property
    def no_interval(self) -> str:
        """Why nothing of this law has an interval; empty where it may have one."""
        if self.solution.optimum_lost:
            return ", ".join(map(str, self.solution.optimum_lost))
        if not self.solution.converged:
            return "the solver did not converge"
        return "" if self.solution.dof >= 1 else "there are no more runs than parameters"

    @cached_property
    def posterior(self) -> Posterior:
        """The drawn surfaces."""
        return posterior(self)

    @cached_property
    def drawn_laws(self) -> list[Law]:
        """The drawn surfaces, one by one."""
        singles = self.posterior.singles()
        return [DrawnLaw(s.mean.law(s.parts[0].eta[0]), s) for s in singles]

    def span(self, draws: Floats, level: float) -> Interval | None:
        """The central interval of draws; ``None`` where it reaches draws that are not finite."""
        values = np.sort(np.where(np.isnan(draws), np.inf, draws).ravel())
        with np.errstate(invalid="ignore"):  # between two infinities
            low, high = np.quantile(values, [0.5 - level / 2, 0.5 + level / 2], method="linear")
        return (float(low), float(high)) if np.isfinite(low) and np.isfinite(high) else None

    @one_blas_thread
    def optima(
        self,
        C: float,
        flops: FlopsFunction | None = None,
        max_params: float | None = None,
        max_tokens: float | None = None,
    ) -> DrawnOptima:
        """The best N and D at C on every drawn surface, within caps; infinite N where it has none."""
        flops = flops or self.flops
        start = float(np.log(self.law.optimal(C, flops).params))

        def bowl(log_n: Floats, misfit: bool = True) -> Floats:
            N = np.exp(log_n)
            return self.posterior.losses(N, C / np.asarray(flops(N)), misfit)

        coarse = start + np.linspace(-_WIDEST, _WIDEST, _COARSE)
        at = coarse[np.argmin(bowl(coarse), axis=1)]
        low, high = np.quantile(at, [0.02, 0.98])
        bent = self.law.capped  # the bowl has a kink, which no parabola follows
        wide = _MARGIN / 5 if bent else _MARGIN
        fine = np.linspace(max(low - wide, coarse[0]), min(high + wide, coarse[-1]), _FINE)
        lowest, vertex = bottoms(fine, bowl(fine))
        of_law, skewed = bottoms(fine, bowl(fine, misfit=False))
        if bent:
            vertex = skewed = of_law = lowest
        log_n = np.column_stack([lowest, lowest, vertex - (skewed - of_law), vertex])
        sizes = np.exp(log_n)
        caps = (max_params, max_tokens)
        best = spend(sizes.ravel(), np.full(sizes.size, C), flops, *caps)
        N, D = best.params.reshape(sizes.shape), best.tokens.reshape(sizes.shape)
        loss = self.posterior.losses(N, D)
        lost = (log_n <= coarse[0] + 0.1) | (log_n >= coarse[-1] - 0.1)
        free = np.where(lost, np.inf, sizes)
        run_loss = self.posterior.one_run(loss)
        return DrawnOptima(N if any(caps) else free, D, loss, run_loss, free)


def bottoms(log_n: Floats, bowl: Floats) -> tuple[Floats, Floats]:
    """Ln N of the lowest point of each row, and of the vertex of a parabola within ×5 of itself."""
    h, rows = log_n[1] - log_n[0], np.arange(len(bowl))
    j = np.clip(np.argmin(bowl, axis=1), 1, len(log_n) - 2)
    left, here, right = bowl[rows, j - 1], bowl[rows, j], bowl[rows, j + 1]
    bend = left - 2 * here + right
    move = np.divide(0.5 * (left - right), bend, out=np.zeros_like(bend), where=bend > 0)
    lowest = log_n[j] + h * np.clip(move, -1.0, 1.0)
    vertex = lowest
    for _ in range(4):
        x = log_n - vertex[:, None]
        w = np.clip((_WINDOW - np.abs(x)) / h + 0.5, 0.0, 1.0)
        powers = [w, w * x, w * x * x]
        m = np.array(
            [*(p.sum(axis=1) for p in powers), *((powers[2] * t).sum(axis=1) for t in (x, x * x))]
        )
        normal = np.moveaxis(m[np.add.outer(np.arange(3), np.arange(3))], 2, 0)
        with np.errstate(invalid="ignore"):  # of bowls that reach infinity
            right_side = np.stack([(p * bowl).sum(axis=1) for p in powers], axis=1)
        _, slope, curve = np.linalg.solve(normal, right_side[..., None])[..., 0].T
        with np.errstate(over="ignore"):  # it is clipped
            move = np.divide(-0.5 * slope, curve, out=np.zeros_like(slope), where=curve > 1e-12)
        vertex = np.clip(vertex + np.clip(move, -0.5, 0.5), log_n[0], log_n[-1])
    return lowest, vertex


def estimate(evidence: Evidence, quantity: Callable[[Law], float], level: float) -> Estimate:
    """See :meth:`flops_fit.fit.Fit.estimate`."""
    check_level(level)
    if not callable(quantity):
        raise InputTypeError(
            f"expected a function such as lambda law: law.loss(1e9, 2e10); got {quantity!r}."
        )
    value = _number(quantity(evidence.law))
    if np.isnan(value):
        raise InputError("expected a quantity that is a number; it is nan at the fitted law.")
    if evidence.no_interval:
        return Estimate(value, None, level, "none", evidence.no_interval)
    if not np.isfinite(value):
        return Estimate(value, None, level, "none", "the fitted law does not reach it")
    draws = np.array([_number(quantity(law)) for law in evidence.drawn_laws])
    return answer(evidence, draws, level)


def answer(evidence: Evidence, draws: Floats, level: float) -> Estimate:
    """The median of draws and their interval."""
    interval = evidence.span(draws, level)
    value = float(np.median(np.where(np.isnan(draws), np.inf, draws)))
    if interval is not None:
        return Estimate(value, interval, level, METHOD)
    reason = "the runs do not determine it" if np.isfinite(value) else "the law does not reach it"
    return Estimate(value, None, level, "none", reason)


WIDEST_LEVEL = 1 - 2 / DRAWS
"""Beyond it one draw at each end lies outside: its interval would be that of any higher level."""


def check_level(level: float) -> None:
    """Refuse a level that is not between 0 and 1, or that the draws cannot give."""
    expected = "a number between 0 and 1, such as 0.9"
    if is_number(level) and WIDEST_LEVEL < level < 1:
        expected += f", and {WIDEST_LEVEL:g} at most, the widest that {DRAWS} draws tell"
    check_number("level", level, above=0, at_most=WIDEST_LEVEL, expected=expected)


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]  # what a user's function gave: float decides
    except (TypeError, ValueError) as error:
        raise InputTypeError(
            f"expected one number from the quantity; got {type(value).__name__}."
        ) from error
