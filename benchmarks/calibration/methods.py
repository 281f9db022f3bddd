"""What each method says of a held-out budget: a value and the ends of its intervals, in logs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from benchmarks.calibration.sweeps import NEAR, Budget, Cut
from flops_fit.fit import Fit, fit_runs
from flops_fit.fit.intervals import Evidence, covariance, student_t
from flops_fit.fit.minima import isoflop
from flops_fit.fit.solver import Solution
from flops_fit.laws import Law
from flops_fit.table import RunTable

Floats = NDArray[np.float64]

LEVELS = (0.9, 0.5)
QUANTITIES = ("N*", "D*", "loss", "one run")
_KEYS = ("optimal_params", "optimal_tokens", "expected_loss", "run_loss")
_DELTA = 1e-3  # of Huber's loss, as Hoffmann et al. 2022 have it
_RESAMPLES, _RESAMPLES_QUICK = 100, 25


@dataclass(frozen=True)
class Span:
    """A value and the intervals of :data:`LEVELS`, each (low, high) in ln; NaN where there is none."""

    value: float
    ends: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, draws: Floats) -> Span:
        """Median and central intervals."""
        kept = draws[np.isfinite(draws)]
        if len(kept) < max(len(draws) / 2, 10):
            return cls(float("nan"), ((float("nan"),) * 2,) * len(LEVELS))
        tails = [(0.5 - level / 2, 0.5 + level / 2) for level in LEVELS]
        ends = [np.quantile(kept, tail).tolist() for tail in tails]
        return cls(float(np.median(kept)), tuple((low, high) for low, high in ends))


Answer = Mapping[str, Span]  # of those of QUANTITIES that the method knows


def shipped(fit: Fit, budget: Budget) -> Answer:
    """What the library says."""
    answers = [fit.predict(budget.compute, level) for level in LEVELS]
    first = answers[0]
    values = (first.optimal_params, first.optimal_tokens, *[first.expected_loss] * 2)
    nothing = (float("nan"), float("nan"))
    return {
        name: Span(
            float(np.log(value)),
            tuple(tuple(np.log(a.intervals[key] or nothing).tolist()) for a in answers),
        )
        for name, key, value in zip(QUANTITIES, _KEYS, values, strict=True)
    }


def drawn(evidence: Evidence, budget: Budget) -> Answer:
    """What the drawn surfaces of ``evidence`` say."""
    found = evidence.optima(budget.compute)
    draws = (found.params, found.tokens, found.loss, found.run_loss)
    return {n: Span.of(np.log(d).ravel()) for n, d in zip(QUANTITIES, draws, strict=True)}


def noise_alone(fit: Fit, budget: Budget) -> Answer:
    """The fitted law and its HC3 sandwich: the law taken to be exactly right."""
    solution, flops = fit._evidence.solution, fit.flops
    cov = covariance(solution)

    def logs(law: Law) -> Floats:
        best = law.optimal(budget.compute, flops)
        return np.log([best.params, best.tokens, best.loss])

    value = logs(solution.law)
    nan = np.full(3, np.nan)
    sd = nan
    if cov.matrix is not None and not solution.optimum_lost:
        g = gradient_of(solution, logs)
        sd = np.sqrt(np.maximum(np.sum(g @ cov.matrix * g, axis=1), 0))
    noise = solution.residual_sd
    spreads = {**dict(zip(QUANTITIES, sd, strict=False)), "one run": np.hypot(sd[2], noise)}
    values = dict(zip(QUANTITIES, (*value, value[2]), strict=True))
    halves = [student_t(level, max(cov.dof, 1)) for level in LEVELS]
    return {
        n: Span(
            float(values[n]),
            tuple((float(values[n] - t * sd), float(values[n] + t * sd)) for t in halves),
        )
        for n, sd in spreads.items()
    }


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


def form_range(fit: Fit, budget: Budget) -> Answer:
    """The range over the fitted forms and approach 2's line on top of noise alone."""
    inside = noise_alone(fit, budget)
    C, flops = budget.compute, fit.flops
    forms = [a.law.optimal(C, flops) for a in fit.alternatives]
    points = {
        "N*": [float(o.params) for o in forms],
        "D*": [float(o.tokens) for o in forms],
        "loss": [float(o.loss) for o in forms],
    }
    if fit.isoflop.usable and fit.isoflop.n_line is not None:
        size = float(fit.isoflop.n_line(C))
        points["N*"].append(size)
        points["D*"].append(C / float(flops(np.asarray(size))))
    points["one run"] = points["loss"]
    return {
        n: Span(
            span.value,
            tuple(
                (min([low, *np.log(points[n])]), max([high, *np.log(points[n])]))
                for low, high in span.ends
            ),
        )
        for n, span in inside.items()
    }


def parabola_bootstrap(runs: RunTable, resamples: int) -> Callable[[float], Floats]:
    """Approach 2 ×5: draws of ln N*(C), runs resampled inside each budget."""
    vertices = isoflop(runs, float(np.exp(NEAR))).interior
    rng = np.random.default_rng(0)
    C, drawn = [], []
    for found in vertices:
        part = runs.select(runs.budget == found.budget)
        near = np.abs(np.log(part.params / found.params)) <= NEAR
        x, z = np.log(part.params[near] / found.params), np.log(part.loss[near])
        if len(x) < 4:
            continue
        counts = rng.multinomial(len(x), np.full(len(x), 1 / len(x)), size=resamples)
        basis = np.vander(x, 3, increasing=True)
        normal = np.einsum("ri,ij,ik->rjk", counts, basis, basis) + 1e-9 * np.eye(3)
        c = np.linalg.solve(normal, (counts @ (basis * z[:, None]))[..., None])[..., 0]
        with np.errstate(divide="ignore", invalid="ignore"):
            move = np.where(c[:, 2] > 1e-6, -0.5 * c[:, 1] / c[:, 2], np.nan)
        move[np.abs(move) > 2 * NEAR] = np.nan
        C.append(np.log(found.budget))
        drawn.append(np.log(found.params) + move)
    x, y = np.array(C), np.array(drawn)

    def at(compute: float) -> Floats:
        out = np.full(resamples, np.nan)
        for i in range(resamples if len(x) >= 3 else 0):
            keep = np.isfinite(y[:, i])
            if np.sum(keep) >= 3:
                out[i] = np.polyval(np.polyfit(x[keep], y[keep, i], 1), np.log(compute))
        return out

    return at


def scipy_hoffmann(runs: RunTable, resamples: int) -> Callable[[float], tuple[Floats, Floats]]:
    """SciPy's trust region on the additive law, log-Huber, runs resampled: ln N* and ln L."""
    x, y, z = (np.log(v) for v in (runs.params, runs.tokens, runs.loss))

    def terms(t: Floats) -> tuple[Floats, Floats, Floats]:
        model = np.logaddexp(np.logaddexp(t[0], t[1] - t[3] * x), t[2] - t[4] * y)
        return model, np.exp(t[1] - t[3] * x - model), np.exp(t[2] - t[4] * y - model)

    def residual(t: Floats, root: Floats) -> Floats:
        return np.asarray(root * (terms(t)[0] - z))

    def slopes(t: Floats, root: Floats) -> Floats:
        model, a, b = terms(t)
        return root[:, None] * np.column_stack([np.exp(t[0] - model), a, b, -a * x, -b * y])

    def solve(start: Floats, root: Floats) -> tuple[Floats, float]:
        solution = least_squares(
            residual, start, slopes, args=(root,), loss="huber", f_scale=_DELTA, x_scale="jac"
        )
        return solution.x, float(solution.cost)

    ones, level = np.ones(len(z)), float(np.min(z))
    starts = [
        np.array([level - 0.3, level + p * x.mean(), level + q * y.mean(), p, q])
        for p in (0.2, 0.35, 0.5)
        for q in (0.2, 0.35, 0.5)
    ]
    best = min((solve(s, ones) for s in starts), key=lambda found: found[1])[0]
    rng = np.random.default_rng(0)
    counts = rng.multinomial(len(z), np.full(len(z), 1 / len(z)), size=resamples)
    E, a, b, p, q = np.array([solve(best, np.sqrt(c))[0] for c in counts]).T
    per_unit = float(np.median(np.log(runs.flops) - x - y))

    def at(compute: float) -> tuple[Floats, Floats]:
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            both = np.log(compute) - per_unit
            log_n = (np.log(p / q) + a - b + q * both) / (p + q)
            loss = np.logaddexp(np.logaddexp(E, a - p * log_n), b - q * (both - log_n))
        return log_n, loss

    return at


OURS, NOISE, FORMS, PARABOLAS, SCIPY = (
    "as shipped",
    "noise alone (HC3)",
    "form range on top",
    "A2, bootstrap",
    "SciPy, bootstrap",
)


@dataclass(frozen=True, eq=False)
class Case:
    """One held-out budget of a cut and what each method says of it; ``fit`` is the library's."""

    cut: Cut
    budget: Budget
    fit: Fit
    answers: Mapping[str, Answer]


def cases(cut: Cut, quick: bool) -> Iterator[Case]:
    """Every held-out budget of a cut."""
    fit = fit_runs(cut.left)
    resamples = _RESAMPLES_QUICK if quick else _RESAMPLES
    line = parabola_bootstrap(cut.left, 4 * resamples)
    plain = scipy_hoffmann(cut.left, resamples)
    for budget in cut.budgets:
        size = line(budget.compute)
        log_n, log_loss = plain(budget.compute)
        per_unit = np.log(budget.compute) - budget.vertex.log_n - budget.log_d
        others = {
            "N*": Span.of(log_n),
            "D*": Span.of(np.log(budget.compute) - per_unit - log_n),
            "loss": Span.of(log_loss),
        }
        answers = {
            OURS: shipped(fit, budget),
            NOISE: noise_alone(fit, budget),
            FORMS: form_range(fit, budget),
            PARABOLAS: {
                "N*": Span.of(size),
                "D*": Span.of(np.log(budget.compute) - per_unit - size),
            },
            SCIPY: others,
        }
        yield Case(cut, budget, fit, answers)
