"""What is known of a law's constants, the law inside the misfit's model, and runs pooled for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace

import numpy as np

from flops_fit.errors import InputError, InputTypeError, is_number
from flops_fit.fit.solver import Solution
from flops_fit.fit.surface import Penalty, Points, derivatives
from flops_fit.flops.functions import Floats
from flops_fit.laws.kappa import Hoffmann, Kappa
from flops_fit.laws.law import Law

CONSTANTS = ("E", "alpha", "beta", "kappa")
_HELD_SD = 1e-5  # of the log of a constant that is held, in a posterior
_STIFFNESS = 1e8  # of a held constant: a run's pull moves it by less than 1e-8 of itself
_ZERO = 1e-9  # that stands for zero in logs


@dataclass(frozen=True)
class Known:
    """Constants held at a value, and those with a mean and a standard deviation."""

    fixed: Mapping[str, float] = field(default_factory=dict)
    prior: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def penalty(self, points: Points, variance: float, weight: float) -> Penalty | None:
        """For the solver of the κ family: runs of noise ``variance`` that weigh ``weight`` in all."""
        if not (self.fixed or self.prior):
            return None
        unit = np.array([points.scale, 1.0, 1.0, 1.0])
        shift = np.array([points.shift, 0.0, 0.0, 0.0])
        target, stiffness = np.zeros(4), np.zeros(4)
        held = np.array([name in self.fixed for name in CONSTANTS])
        for i, name in enumerate(CONSTANTS):
            if name in self.fixed:
                target[i] = (self.fixed[name] + shift[i]) / unit[i]
                stiffness[i] = _STIFFNESS * weight / max(target[i], 0.01) ** 2
            elif name in self.prior:
                mean, sd = self.prior[name]
                target[i] = (mean + shift[i]) / unit[i]
                stiffness[i] = variance * (unit[i] / sd) ** 2
        return Penalty(target, stiffness, held)

    def of_any_form(self) -> Known:
        """What is known of E, which means the same in every form of law."""
        fixed = {n: v for n, v in self.fixed.items() if n == "E"}
        return Known(fixed, {n: v for n, v in self.prior.items() if n == "E"})

    def belief(self) -> Belief | None:
        """The same for a posterior, as a normal distribution of logs."""
        names = (*self.fixed, *self.prior)
        if not names:
            return None
        means = [*self.fixed.values(), *(mean for mean, _ in self.prior.values())]
        sds = [_HELD_SD] * len(self.fixed) + [sd / mean for mean, sd in self.prior.values()]
        return Belief(names, np.log(np.maximum(means, _ZERO)), np.diag(np.array(sds) ** -2.0))


@dataclass(frozen=True, eq=False)
class Belief:
    """A normal distribution of logs of constants that replaces their default priors."""

    names: tuple[str, ...]
    mean: Floats
    precision: Floats

    def with_plain(self, name: str, unit: float, shift: float) -> Belief:
        """The same with one constant itself, shifted and in some unit, in place of its log."""
        if name not in self.names:
            return self
        i = self.names.index(name)
        mean, slope = self.mean.copy(), np.ones(len(self.names))
        mean[i] = np.exp(mean[i]) / unit
        slope[i] = 1 / max(mean[i], 1e-3)
        mean[i] += shift / unit
        return Belief(self.names, mean, self.precision * np.outer(slope, slope))

    def __add__(self, other: Belief | None) -> Belief:
        """Both, about different constants."""
        if other is None:
            return self
        from scipy.linalg import block_diag

        mean = np.concatenate([self.mean, other.mean])
        precision = block_diag(self.precision, other.precision)
        return Belief((*self.names, *other.names), mean, precision)


def check_known(
    fixed: Mapping[str, float] | None,
    prior: Mapping[str, tuple[float, float]] | None,
    form: type[Law] | None,
) -> Known:
    """``fixed`` and ``prior`` of :func:`flops_fit.fit.fit_runs`, where they are valid."""
    family = form in (None, Hoffmann, Kappa)
    may = CONSTANTS if form in (None, Kappa) else CONSTANTS[:3]
    names = may if form is None or family else form.parameters()
    known = Known(fixed or {}, prior or {})
    for what, example in (("fixed", "{'E': 1.6}"), ("prior", "{'E': (1.6, 0.1)}")):
        given = getattr(known, what)
        if not isinstance(given, Mapping):
            raise InputTypeError(f"{what}=: expected a dict such as {example}; got {given!r}.")
        for name in given:
            if name not in names:
                raise InputError(f"{what}=: expected constants of {list(names)}; got {name!r}.")
    if known.prior and not family:
        raise InputError("prior=: expected the additive or the κ-law; use fixed= with other laws.")
    for name, value in known.fixed.items():
        if not (is_number(value) and (value > 0 or (value == 0 and name == "E"))):
            raise InputError(f"fixed=: expected a positive number for {name}; got {value!r}.")
    for name, pair in known.prior.items():
        if not (isinstance(pair, tuple | list) and len(pair) == 2 and all(map(_positive, pair))):
            raise InputError(
                f"prior=: expected a mean and a standard deviation for {name}, both positive; got "
                f"{pair!r}."
            )
    if both := set(known.fixed) & set(known.prior):
        raise InputError(f"expected a constant in fixed= or in prior=; {sorted(both)} are in both.")
    return replace(known, fixed={name: float(value) for name, value in known.fixed.items()})


def _positive(value: object) -> bool:
    return is_number(value) and value > 0


MOST_POINTS = 1500  # beyond, runs next to each other are pooled
_CELL = 0.1  # in ln N and ln D, of runs that are pooled


@dataclass(frozen=True)
class MisfitPrior:
    """What public sweeps say about laws and their misfit before the runs are seen.

    The mean of E is .6 of the lowest loss. The standard deviations ``spread`` are those of E in units
    of the lowest loss, of the logs of the terms' sizes, and of ln p, ln q and ln κ.
    """

    amplitude: float = 0.007  # standard deviation of a half-normal prior of τ, relative to the loss
    lengths: tuple[float, ...] = (1.2, 2.0, 3.2)  # the values of ℓ, in e-folds of N and of D
    drift: float = 3.0  # amplitude, in units of τ, of the part of g that a budget's sizes share
    drift_length: float = 5.0  # of that part, in e-folds of compute
    window: float = 4.0  # a run this factor from N* has twice the noise variance
    tilt: float = 0.5  # one of compute C has (C_max/C)^tilt times the noise variance
    slope: float = 0.3  # median of the slopes p and q of the two terms
    kappa: float = 0.75  # median of κ
    spread: tuple[float, ...] = (0.4, 4.0, 4.0, 0.6, 0.6, 0.7)


class KappaMean:
    """ln L or L of the κ family at coordinates η = (E, u, v, ln p, ln q, ln κ), in batches."""

    def __init__(
        self, solution: Solution, prior: MisfitPrior, hold_kappa: bool, known: Belief | None
    ) -> None:
        self.points = points = solution.points
        E, u, v, p, q, ln_kappa = solution.coordinates
        low = float(np.min(np.exp(points.z) if points.log else points.z))
        slope, kappa = np.log(prior.slope), np.log(prior.kappa)
        self.free = 5 if hold_kappa else 6
        self.start = np.array([E, u, v, np.log(p), np.log(q), ln_kappa])[: self.free]
        self.centre = np.array([0.6 * low, u, v, slope, slope, kappa])[: self.free]
        self.additive = type(solution.law) is Hoffmann
        self.ln_kappa = float(ln_kappa)
        spread = np.array(prior.spread)[: self.free]
        spread[0] *= abs(low)
        self.precision = np.diag(spread**-2.0)
        if known is not None:
            known = known.with_plain("E", points.scale, points.shift)
            rows = self.log_constants(known.names)
            self.precision, self.centre = _informed(self.precision, self.centre, rows, known)

    def log_constants(self, names: tuple[str, ...]) -> tuple[Floats, Floats]:
        """R and c of constants R·η + c: E itself, the logs of others."""
        rows, shift = np.zeros((len(names), 6)), np.zeros(len(names))
        for row, name in enumerate(names):
            rows[row, {"E": 0, "alpha": 3, "beta": 4, "kappa": 5}[name]] = 1.0
            # An additive law's exponents are its slopes.
            if name in ("alpha", "beta") and not self.additive:
                rows[row, 5] = -1.0
        if self.free == 5:
            shift += self.ln_kappa * rows[:, 5]
        return rows[:, : self.free], shift

    def theta(self, eta: Floats) -> Floats:
        """The coordinates of :mod:`flops_fit.fit.surface`, shape (batch, 6)."""
        out = np.empty((len(eta), 6))
        out[:, : self.free] = eta
        if self.free == 5:
            out[:, 5] = self.ln_kappa
        out[:, 3:5] = np.exp(np.clip(out[:, 3:5], -30, 10))
        return out

    def law(self, eta: Floats) -> Law:
        """The law at coordinates of shape (k,)."""
        form = Hoffmann if self.free == 5 and self.ln_kappa == 0 else Kappa
        return self.points.law_at(self.theta(eta[None])[0], form)

    def local(self, eta: Floats, points: Points) -> tuple[Floats, Floats]:
        """Values (batch, points) and slopes (batch, k, points)."""
        theta = self.theta(eta)
        d = derivatives(theta, points, hold_kappa=self.free == 5)
        slopes = d.gradient.copy()
        slopes[:, 3:5] *= theta[:, 3:5, None]
        return d.model, slopes

    def pooled(
        self, mean_of: Callable[[Floats], Floats], points: Points
    ) -> tuple[KappaMean, Floats]:
        """The same for pooled points, and its values there at the start."""
        return self, self.values(self.start[None], points.x, points.y)[0]

    def values(self, eta: Floats, x: Floats, y: Floats) -> Floats:
        """Values at centred ln N and ln D of shape (points,) or (batch, points): (batch, points)."""
        E, u, v, p, q, ln_kappa = self.theta(eta).T[:, :, None]
        kappa = np.exp(ln_kappa)
        power = kappa * np.logaddexp((u - p * x) / kappa, (v - q * y) / kappa)
        value = E + np.exp(np.minimum(power, 60.0))
        return np.asarray(np.log(np.maximum(value, 1e-300)) if self.points.log else value)


class LinearMean:
    """Any law, linear in its free coordinates around its fit."""

    def __init__(self, solution: Solution, prior: MisfitPrior, known: Belief | None) -> None:
        self.solution, self.points = solution, solution.points
        self.start = self.centre = solution.theta
        self.fitted, self.slopes = self.points.z - solution.residuals, solution.jacobian.T
        self.precision = np.eye(len(solution.theta)) * prior.spread[1] ** -2.0
        if known is not None:
            rows = self.log_constants(known.names)
            self.precision, self.centre = _informed(self.precision, self.centre, rows, known)

    def log_constants(self, names: tuple[str, ...]) -> tuple[Floats, Floats]:
        """R and c of logs R·η + c of constants; a row of zeros of one that is held."""
        free = self.solution.names
        rows = np.array([[float(name == other) for other in free] for name in names])
        held = [np.log(v) if n not in free else 0.0 for n, v in self.solution.law.params.items()]
        at = dict(zip(self.solution.law.params, held, strict=True))
        return rows, np.array([at[name] for name in names])

    def law(self, eta: Floats) -> Law:
        """The law at coordinates of shape (k,)."""
        return self.solution.law_at(eta)

    def local(self, eta: Floats, points: Points) -> tuple[Floats, Floats]:
        """Values (batch, points) and slopes (batch, k, points), at the runs only."""
        values = self.fitted + (eta - self.start) @ self.slopes
        return values, np.broadcast_to(self.slopes, (len(eta), *self.slopes.shape))

    def pooled(
        self, mean_of: Callable[[Floats], Floats], points: Points
    ) -> tuple[LinearMean, Floats]:
        """The same for pooled points, and its values there at the start."""
        own = copy(self)
        own.fitted, own.slopes = mean_of(self.fitted), mean_of(self.slopes)
        return own, own.fitted

    def values(self, eta: Floats, x: Floats, y: Floats) -> Floats:
        """Values at centred ln N and ln D of shape (points,) or (batch, points): (batch, points)."""
        points, laws = self.points, self.solution.law_at
        N, D = np.exp(x + points.x_mean), np.exp(y + points.y_mean)

        def model(theta: Floats) -> Floats:
            loss = np.asarray(laws(theta).loss(N, D), dtype=np.float64) + points.shift
            loss /= points.scale
            return np.asarray(np.log(loss) if points.log else loss)

        out = np.broadcast_to(model(self.start), (len(eta), np.shape(x)[-1])).copy()
        for i, move in enumerate(eta.T - self.start[:, None]):
            step = np.zeros_like(self.start)
            step[i] = 1e-4 * max(abs(float(self.start[i])), 0.1)
            slope = (model(self.start + step) - model(self.start - step)) / (2 * step[i])
            out += move[:, None] * slope
        return out


Mean = KappaMean | LinearMean


@dataclass(frozen=True, eq=False)
class Gaussian:
    """The posterior of the law and of g's weights together, as one normal at one (τ, ℓ, σ).

    Its coordinates are η and the weights, (k + M,); ``information``, (k + M)², is its inverse
    covariance and ``prior`` that of the prior. ``noise`` is σ, of a run of full trust, ``scatter`` what
    runs are seen to have.
    """

    mean: Mean
    basis: Callable[[Floats, Floats], Floats]
    eta: Floats
    noise: float
    scatter: float
    information: Floats
    prior: Floats

    def weights(self, trust: Floats) -> Floats:
        """1 over the noise variance of runs to come: that of their trust, or their scatter if larger."""
        return np.asarray(np.minimum(trust / self.noise**2, self.scatter**-2.0))

    def rows(self, N: Floats, D: Floats) -> tuple[Floats, Floats]:
        """Values of the law and slopes over the coordinates, (points, k + M), in the fit's space."""
        x, y = np.log(N) - self.mean.points.x_mean, np.log(D) - self.mean.points.y_mean
        step = 1e-4 * np.maximum(np.abs(self.eta), 0.1)
        moved = self.mean.values(self.eta + np.diag(step), x, y)
        slopes = moved - self.mean.values(self.eta - np.diag(step), x, y)
        value = self.mean.values(self.eta[None], x, y)[0]
        return value, np.hstack([(slopes / (2 * step[:, None])).T, self.basis(x, y)])


def _informed(
    precision: Floats, centre: Floats, rows: tuple[Floats, Floats], known: Belief
) -> tuple[Floats, Floats]:
    """A prior's precision and mean with what is known in place of its default."""
    R, shift = rows
    left = precision * np.where(np.any(R == 1.0, axis=0), 0.0, 1.0)
    informed = left + R.T @ known.precision @ R
    right = left @ centre + R.T @ known.precision @ (known.mean - shift)
    return informed, np.asarray(np.linalg.solve(informed, right), dtype=np.float64)


def pool(
    mean: Mean, precision: Floats, apart: Sequence[Floats] = ()
) -> tuple[Mean, Points, Floats, float, Callable[[Floats], Floats]]:
    """One point for each cell of runs; their precision, and the weighted squares left inside cells.

    Last comes the function that takes weighted means over cells, of the last axis. Runs that differ in
    ``apart``, what else their law knows, share no cell. A point lies at its runs' mean residual off the
    fitted law, so that a cell may have a slope.
    """
    points, cell = mean.points, _CELL
    shared = np.zeros(len(points.z)) if points.groups is None else points.groups
    while True:
        near = [np.floor(column / cell) for column in (points.x, points.y, *apart)]
        keys = np.column_stack([*near, shared])
        first, group = np.unique(keys, axis=0, return_index=True, return_inverse=True)[1:]
        group = group.ravel()
        if len(first) <= MOST_POINTS or cell > 1:
            break
        cell *= 1.5
    total = np.asarray(np.bincount(group, precision), dtype=np.float64)

    def mean_of(values: Floats) -> Floats:
        rows = [np.bincount(group, precision * row) / total for row in np.atleast_2d(values)]
        return np.array(rows).reshape(*values.shape[:-1], len(total))

    residuals = points.z - mean.local(mean.start[None], points)[0][0]
    off = mean_of(residuals)
    groups = None if points.groups is None else points.groups[first]
    at = replace(points, x=mean_of(points.x), y=mean_of(points.y), groups=groups)
    mean, model = mean.pooled(mean_of, at)
    within = float(np.sum(precision * (residuals - off[group]) ** 2))
    return mean, replace(at, z=model + off), total, within, mean_of
