"""Two ways from N and D to a score between chance and a ceiling, such as accuracy, each with draws.

Two steps: a law gives the task's loss, and a sigmoid of that loss the score. Direct: −ln of the score
above chance is a sum of two power terms. Constants are drawn by randomised maximum likelihood: each draw
is the best fit to the runs' scores, and to the centres of the priors, with new noise on both.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Protocol

import numpy as np

from flops_fit.fit.fitting import quick_fit
from flops_fit.fit.intervals import Evidence
from flops_fit.flops.functions import Floats, FlopsFunction
from flops_fit.table.run_table import RunTable

TWO_STEPS, DIRECT = "two steps", "direct"
FEWEST, _FEWEST_HELD = 8, 2  # runs
_HELD_OUT = (0.2, 0.4)  # of the runs, those of most compute
DRAWS = 400
_STEPS = 60
_CONVERGED = 1e-4  # relative gain of Σ r² in a step
_SMALLEST_SD = 1e-4  # of a score: rounding
_START_SD = 0.02
# Where searches of the direct law start.
_EXPONENTS = np.array([[0.3, 0.3], [0.15, 0.5], [0.5, 0.15]])
_USUAL_EXPONENT, _EXPONENT_SD = np.log(0.3), 0.7  # prior of ln α and ln β
_SLOPES, _SLOPE_SD = np.array([0.5, 1.0, 2.0]), 1.5  # of the sigmoid, per sd of the losses; in logs
# Where it is half-way, in sd of the losses; lower losses score more.
_MIDDLE, _MIDDLE_SD = -2.0, 3.0


@dataclass(frozen=True)
class Scale:
    """Scores go from ``chance`` to ``ceiling``; a ceiling of ``None`` is fitted."""

    chance: float
    ceiling: float | None = 1.0

    @property
    def range(self) -> float:
        """What lies between chance and the highest score there is."""
        return (1.0 if self.ceiling is None else self.ceiling) - self.chance

    def score(self, share: Floats, top: Floats | float = 1.0) -> Floats:
        """The score at a share of the way from chance to ``top`` of the range."""
        return np.asarray(self.chance + self.range * top * share)


class Route(Protocol):
    """A law of the score, fitted to runs."""

    @property
    def sd(self) -> float:
        """What one run scatters by around it."""

    def draws(self, N: Floats, D: Floats) -> Floats:
        """Scores of (N, D), both (points,), on each drawn surface: (draws, points)."""


def minimise(residuals: Callable[[Floats], Floats], start: Floats, steps: int = _STEPS) -> Floats:
    """Levenberg–Marquardt on many problems at once: ``residuals`` maps (B, k) to (B, rows)."""
    theta, k, still = np.array(start, dtype=np.float64), np.shape(start)[1], 0
    r = residuals(theta)
    cost, damping = np.sum(r**2, axis=1), np.full(len(theta), 1e-2)
    while still < 2 and (steps := steps - 1) >= 0:
        moves = 1e-5 * np.eye(k)
        J = np.stack([(residuals(theta + m) - r) / 1e-5 for m in moves], axis=2)
        normal = np.swapaxes(J, 1, 2) @ J
        scale = np.einsum("bii->bi", normal) + 1e-12
        damped = normal + np.eye(k) * (damping[:, None] * scale)[:, :, None]
        move = np.linalg.solve(damped, np.swapaxes(J, 1, 2) @ r[..., None])[..., 0]
        trial = theta - np.clip(move, -3.0, 3.0)
        again = residuals(trial)
        new = np.sum(again**2, axis=1)
        better = new < cost
        still = 0 if np.any(new < cost * (1 - _CONVERGED)) else still + 1
        theta[better], r[better], cost[better] = trial[better], again[better], new[better]
        damping = np.clip(np.where(better, damping / 10, damping * 10), 1e-9, 1e9)
    return theta


def _drawn(
    model: Callable[[Floats], Floats],
    scores: Floats,
    starts: Floats,
    prior: tuple[Floats, Floats],
    seed: int,
) -> tuple[Floats, float]:
    """Drawn constants, (draws, k), and the scatter of a run; prior: means and sds, infinite for none."""
    mean, width = prior
    known = np.isfinite(width)

    def residuals(theta: Floats, targets: Floats, sd: float, centre: Floats) -> Floats:
        off = (theta - centre)[:, known] / width[known]
        return np.hstack([(model(theta) - targets) / sd, off])

    sd, theta = _START_SD, starts
    for _ in range(3):
        theta = minimise(partial(residuals, targets=scores, sd=sd, centre=mean), theta)
        best = theta[np.argmin(np.sum(residuals(theta, scores, sd, mean) ** 2, axis=1))]
        left = max(len(scores) - len(best), 1)
        sd = max(float(np.sqrt(np.sum((model(best[None])[0] - scores) ** 2) / left)), _SMALLEST_SD)
    rng = np.random.default_rng(seed)
    targets = scores + rng.normal(0.0, sd, (DRAWS, len(scores)))
    centre = mean + np.where(known, width, 0.0) * rng.normal(size=(DRAWS, len(mean)))
    start = np.broadcast_to(best, (DRAWS, len(best)))
    draw = partial(residuals, targets=targets, sd=sd, centre=centre)
    return minimise(draw, start, _STEPS // 2), sd


@dataclass(frozen=True, eq=False)
class LawOfLoss:
    """A task's loss by its own law."""

    evidence: Evidence
    sd: float = 0.0  # its draws have the noise of a run

    def draws(self, N: Floats, D: Floats) -> Floats:
        """See :class:`Route`."""
        if self.evidence.no_interval:
            return np.atleast_2d(self.evidence.law.loss(N, D))
        surfaces = self.evidence.posterior
        return surfaces.one_run(surfaces.losses(N, D))


@dataclass(frozen=True, eq=False)
class Direct:
    """−ln of the score above chance is A/N^α + B/D^β (after arXiv:2512.08894, which has it in C)."""

    params: Floats
    tokens: Floats
    scores: Floats
    scale: Scale

    @cached_property
    def _centre(self) -> tuple[float, float]:
        return float(np.mean(np.log(self.params))), float(np.mean(np.log(self.tokens)))

    def _score(self, theta: Floats, N: Floats, D: Floats) -> Floats:
        """Scores, (B, points), of constants (B, 4 or 5): ln A' and ln B' at the middle, ln α, ln β."""
        n, d = np.log(N) - self._centre[0], np.log(D) - self._centre[1]
        log_a, log_b, *rest = (column[:, None] for column in theta.T)
        alpha, beta = np.exp(np.clip(rest[0], -9.0, 2.0)), np.exp(np.clip(rest[1], -9.0, 2.0))
        gap = np.exp(np.minimum(log_a - alpha * n, 9.0)) + np.exp(np.minimum(log_b - beta * d, 9.0))
        return self.scale.score(np.exp(-gap), _top(rest[2:]))

    @cached_property
    def _fit(self) -> tuple[Floats, float]:
        more = [2.0] if self.scale.ceiling is None else []
        share = np.clip((np.mean(self.scores) - self.scale.chance) / self.scale.range, 0.02, 0.98)
        half = np.log(-np.log(share) / 2)
        starts = np.array([[half, half, *np.log(e), *more] for e in _EXPONENTS])
        mean = np.array([0.0, 0.0, _USUAL_EXPONENT, _USUAL_EXPONENT, *more])
        prior = mean, np.array([np.inf, np.inf, _EXPONENT_SD, _EXPONENT_SD, *more])
        model = partial(self._score, N=self.params, D=self.tokens)
        return _drawn(model, self.scores, starts, prior, 1)

    @property
    def sd(self) -> float:
        """See :class:`Route`."""
        return self._fit[1]

    def draws(self, N: Floats, D: Floats) -> Floats:
        """See :class:`Route`."""
        return self._score(self._fit[0], N, D)


@dataclass(frozen=True, eq=False)
class TwoSteps:
    """The law of ``losses`` in N and D, and the score as a falling sigmoid of the loss."""

    evidence: Evidence
    losses: Floats
    scores: Floats
    scale: Scale

    def _score(self, theta: Floats, loss: Floats) -> Floats:
        """Scores, (B, points), at losses (B or 1, points)."""
        spread = max(float(np.std(self.losses)), 1e-12)
        slope, middle, *rest = (column[:, None] for column in theta.T)
        x = (loss - np.mean(self.losses)) / spread
        power = np.clip(np.exp(np.clip(slope, -9.0, 5.0)) * (x - middle), -60.0, 60.0)
        return self.scale.score(1 / (1 + np.exp(power)), _top(rest))

    @cached_property
    def _fit(self) -> tuple[Floats, float]:
        more = [2.0] if self.scale.ceiling is None else []
        starts = np.array([[np.log(s), _MIDDLE, *more] for s in _SLOPES])
        prior = np.array([0.0, _MIDDLE, *more]), np.array([_SLOPE_SD, _MIDDLE_SD, *more])
        model = partial(self._score, loss=self.losses)
        return _drawn(model, self.scores, starts, prior, 2)

    @property
    def sd(self) -> float:
        """See :class:`Route`."""
        return self._fit[1]

    def draws(self, N: Floats, D: Floats) -> Floats:
        """See :class:`Route`; the losses are those of one run."""
        theta, losses = self._fit[0], LawOfLoss(self.evidence).draws(N, D)
        if len(losses) > 1:
            theta = np.resize(theta, (len(losses), theta.shape[1]))
        return self._score(theta, losses)


def _top(logit: list[Floats]) -> Floats | float:
    """The share of the range that a fitted ceiling has."""
    return 1 / (1 + np.exp(-logit[0])) if logit else 1.0


def routes_of(table: RunTable, scores: Floats, scale: Scale, law: Evidence) -> dict[str, Route]:
    """Both ways, fitted to the runs."""
    return {
        TWO_STEPS: TwoSteps(law, table.loss, scores, scale),
        DIRECT: Direct(table.params, table.tokens, scores, scale),
    }


def backtest_routes(
    table: RunTable, scores: Floats, scale: Scale, flops: FlopsFunction
) -> tuple[dict[str, float], dict[str, float]]:
    """The mean error of each route on the largest runs, and what their z scores widen intervals by."""
    order = np.argsort(table.flops, kind="stable")
    errors: dict[str, list[Floats]] = {}
    z: dict[str, list[Floats]] = {}
    for share in _HELD_OUT:
        held = max(round(share * len(table)), _FEWEST_HELD)
        rest, top = np.sort(order[:-held]), order[-held:]
        if len(rest) < FEWEST - _FEWEST_HELD:
            break
        law = quick_fit(table.take(rest), flops)
        routes = routes_of(table.take(rest), scores[rest], scale, law)
        for name, route in routes.items():
            drawn = route.draws(table.params[top], table.tokens[top])
            off = scores[top] - np.median(drawn, axis=0)
            errors.setdefault(name, []).append(np.abs(off))
            z.setdefault(name, []).append(off / np.hypot(np.std(drawn, axis=0), route.sd))
    rms = {name: float(np.sqrt(np.mean(np.concatenate(v) ** 2))) for name, v in z.items()}
    mean = {name: float(np.mean(np.concatenate(v))) for name, v in errors.items()}
    return mean, {name: max(1.0, value) for name, value in rms.items()}
