"""Fits in one variable: power laws y = k·x^a with or without an offset, and F(N) from a table."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from flops_fit.errors import FitError, InputError, check_number
from flops_fit.fit.intervals import Interval, hc3, student_t
from flops_fit.fit.solver import FitStatus
from flops_fit.flops.functions import Floats, FlopsFunction, LinearFlops, SmoothFlops
from flops_fit.laws.law import FlopsLike, as_flops
from flops_fit.laws.optimum import PowerLaw
from flops_fit.table.run_table import RunTable

_STEEPEST = 30.0  # the largest |a|·(spread of ln x) searched: a factor e^30 from end to end
_CONSTANT_WITHIN = 0.01  # relative spread of C/(N·D) up to which it is one factor


@dataclass(frozen=True, eq=False)
class PowerFit:
    """A power law fitted to points; made by :func:`fit_power`.

    ``intervals`` has (low, high) at ``level`` of ``k``, ``a`` and ``offset``, ``None`` where none is
    reliable. ``r2`` is the share of the variance of ln y (with an offset: of y) that the law
    explains, ``residual_sd`` the relative scatter of a point about it. ``status`` is ``BOUND_HIT``
    where the offset is at 0; ``notes`` say what limits the answer.
    """

    law: PowerLaw
    intervals: dict[str, Interval | None]
    level: float
    r2: float
    residual_sd: float
    status: FitStatus
    notes: tuple[str, ...]
    _theta: Floats = field(repr=False)
    _covariance: Floats | None = field(repr=False)
    _dof: int = field(repr=False)
    _centre: float = field(repr=False)

    def predict(self, x: ArrayLike) -> tuple[Any, Any, Any]:
        """The law at each x, and the ends of its interval; NaN ends where there is none.

        The interval is of the law, not of one new point, on the scale of ln y: delta method, HC3,
        Student t.

        Examples
        --------
        >>> fit = fit_power([1, 10, 100, 1000], [2, 6.4, 19.8, 63])
        >>> y, low, high = fit.predict(1e4)
        >>> f"{y:.0f} ({low:.0f} to {high:.0f})"
        '198 (192 to 205)'
        """
        position = np.asarray(x, dtype=np.float64)
        if not np.all(np.isfinite(position) & (position > 0)):
            raise InputError(f"expected positive finite x; got {x!r}.")
        y = np.asarray(self.law(position), dtype=np.float64)
        width = np.full(position.shape, np.nan)
        if self._covariance is not None:
            t = np.log(position) - self._centre
            slope = _slopes(self._theta, t)
            if len(self._covariance) == 2:
                slope = slope[..., :2]
            variance = np.einsum("...i,ij,...j->...", slope, self._covariance, slope)
            width = student_t(self.level, self._dof) * np.sqrt(np.maximum(variance, 0.0))
        low, high = y * np.exp(-width), y * np.exp(width)
        return (float(y), float(low), float(high)) if position.ndim == 0 else (y, low, high)


def fit_power(
    x: ArrayLike,
    y: ArrayLike,
    *,
    offset: bool = False,
    weights: ArrayLike | None = None,
    level: float = 0.9,
) -> PowerFit:
    """Fit y = k·x^a by least squares on logs, or y = k·x^a + offset by relative least squares.

    Without an offset, ln y = ln k + a·ln x is a line. With one, Σ w·(1 − ŷ/y)² is minimised over
    offset ≥ 0, k > 0 and a: for given a it is linear in k and offset (variable projection, Golub &
    Pereyra 1973), so the search is over a alone. Use no offset for the optimum line N*(C), and
    one for a loss L(C).

    Raises InputError for an argument that is not valid, and FitError where the points determine no
    power law.

    Parameters
    ----------
    x, y
        Positive numbers, one pair a point.
    offset
        Whether a constant is added, never below 0.
    weights
        How much each point counts; 1 by default, 0 leaves it out.
    level
        Of the intervals: HC3 with Student t, on ln k, a and the logs of predictions.

    Examples
    --------
    >>> x = [1e18, 1e19, 1e20, 1e21]
    >>> fit = fit_power(x, [3.1, 2.6, 2.3, 2.1], offset=True)
    >>> f"{fit.law.offset:.2f} {fit.law.a:.2f}"
    '1.78 -0.20'
    """
    if not isinstance(offset, bool):
        raise InputError(f"expected offset=True or offset=False; got {offset!r}.")
    check_number("level", level, above=0, below=1, expected="a number between 0 and 1, such as 0.9")
    t, z, w = _checked(x, y, weights, 3 if offset else 2)
    centre, scale = float(np.average(t, weights=w)), float(np.average(z, weights=w))
    t, z = t - centre, z - scale
    if offset:
        theta = _solve_with_offset(t, z, w)
    else:
        root = np.sqrt(w)
        line = np.linalg.lstsq(np.column_stack([root, root * t]), root * z, rcond=None)[0]
        theta = np.append(line, 0.0)
    at_zero = offset and not theta[2] > 0
    free = 3 if offset and not at_zero else 2
    notes = []
    if at_zero:
        notes.append("the offset is at 0, its lower bound: the intervals take it as known")
    fitted = _log_values(theta, t)
    residuals = 1 - np.exp(fitted - z) if offset else z - fitted
    slopes = _slopes(theta, t)[:, :free]
    if offset:
        slopes = slopes * np.exp(fitted - z)[:, None]
    dof = len(t) - free
    sandwich = hc3(slopes, residuals, w, np.inf, dof)
    cov = sandwich.matrix
    if sandwich.reason:
        notes.append(f"no interval: {sandwich.reason.replace('run', 'point')}")
    ln_k = theta[0] + scale - theta[1] * centre
    intervals: dict[str, Interval | None] = dict.fromkeys(("k", "a", "offset"))
    if cov is not None:
        directions = np.eye(free)
        directions[0, 1] = -centre  # of ln k at ln x = 0
        variance = np.array([d @ cov @ d for d in directions])
        half = student_t(level, dof) * np.sqrt(np.maximum(variance, 0.0))
        ends = np.array([ln_k, *theta[1:free]]) + np.outer([-1.0, 1.0], half)
        ends[:, 0] = np.exp(np.clip(ends[:, 0], -700.0, 700.0))
        ends[:, 2:] = np.maximum(ends[:, 2:], 0.0) * np.exp(scale)
        for name, (low, high) in zip(intervals, ends.T.tolist(), strict=False):
            intervals[name] = (low, high)
    if intervals["offset"] is not None and intervals["offset"][0] <= 0:
        notes.append("the points do not tell the offset from 0")
    y, model = (np.exp(z), np.exp(fitted)) if offset else (z, fitted)
    spread = float(np.sum(w * (y - np.average(y, weights=w)) ** 2))
    unit = np.array([1.0, 1.0, np.exp(scale)])
    shifted = (theta + np.array([scale, 0.0, 0.0])) * unit
    return PowerFit(
        law=PowerLaw(
            float(np.exp(np.clip(ln_k, -700.0, 700.0))), float(theta[1]), float(shifted[2])
        ),
        intervals=intervals,
        level=level,
        r2=1 - float(np.sum(w * (y - model) ** 2)) / spread if spread > 0 else 1.0,
        residual_sd=float(np.sqrt(np.sum(w * residuals**2) / dof)) if dof > 0 else float("nan"),
        status=FitStatus.BOUND_HIT if at_zero else FitStatus.OK,
        notes=tuple(notes),
        _theta=shifted,
        _covariance=None if cov is None else cov * np.outer(unit[:free], unit[:free]),
        _dof=dof,
        _centre=centre,
    )


def _checked(x: ArrayLike, y: ArrayLike, weights: Any, parameters: int) -> tuple[Floats, ...]:
    """The ln x, ln y and weights of the points that count."""
    try:
        columns = [np.asarray(c, dtype=np.float64) for c in (x, y)]
        columns.append(np.ones_like(columns[0]) if weights is None else np.asarray(weights, float))
    except (TypeError, ValueError):
        raise InputError("expected numbers for x, y and weights; got something else.") from None
    if any(c.ndim != 1 or c.shape != columns[0].shape for c in columns):
        shapes = ", ".join(str(c.shape) for c in columns)
        raise InputError(f"expected x, y and weights as lists of one length; got shapes {shapes}.")
    for name, column in zip(("x", "y"), columns, strict=False):
        wrong = np.flatnonzero(~(np.isfinite(column) & (column > 0)))
        if len(wrong):
            text = f"expected positive finite {name}; {name}[{wrong[0]}] is {column[wrong[0]]:g}."
            raise InputError(f"{text} Leave such points out.")
    w = columns[2]
    if not np.all(np.isfinite(w) & (w >= 0)):
        raise InputError(f"expected weights that are finite and not negative; got {weights!r}.")
    t, z, w = np.log(columns[0][w > 0]), np.log(columns[1][w > 0]), w[w > 0]
    different = len(np.unique(t))
    if different < parameters:
        raise FitError(
            f"expected {parameters} different x or more, as many as the law has parameters; got "
            f"{different}. Add points at other x."
        )
    return t, z, w / np.mean(w)


def _solve_with_offset(t: Floats, z: Floats, w: Floats) -> Floats:
    """(ln k, a, offset ≥ 0): a grid over a, refined around its lowest points, then Gauss–Newton."""
    steepest = _STEEPEST / float(np.ptp(t))
    falling = -np.geomspace(steepest, 1e-3 / float(np.ptp(t)), 60)
    grid = np.concatenate([falling, -falling[::-1]])
    misfits = _projected(grid, t, z, w)[1]
    around = np.concatenate([[np.inf], misfits, [np.inf]])
    lows = np.flatnonzero((misfits <= around[:-2]) & (misfits <= around[2:]))
    ends = []
    for i in lows[np.argsort(misfits[lows], kind="stable")[:3]]:
        near = np.linspace(grid[max(i - 1, 0)], grid[min(i + 1, len(grid) - 1)], 17)
        for _ in range(15):
            best = int(np.argmin(_projected(near, t, z, w)[1]))
            near = np.linspace(near[max(best - 1, 0)], near[min(best + 1, 16)], 17)
        thetas, misfits_near = _projected(near, t, z, w)
        ends.append(_polished(thetas[np.argmin(misfits_near)], t, z, w))
    return min(ends, key=lambda theta: _misfit(theta, t, z, w))


def _projected(a: Floats, t: Floats, z: Floats, w: Floats) -> tuple[Floats, Floats]:
    """The best (ln k, a, offset) for each a, shape (many, 3), and Σ w·(1 − ŷ/y)² of each."""
    root = np.sqrt(w)
    power = a[:, None] * t
    shift = np.max(power, axis=1)
    term, one = root * np.exp(power - shift[:, None] - z), root * np.exp(-z)
    # Least squares on the two columns ``term`` and ``one`` by Gram and Schmidt.
    rest = term - np.outer(term @ one / (one @ one), one)
    k = rest @ root / np.maximum(np.sum(rest**2, axis=1), 1e-300)
    offset = (root - k[:, None] * term) @ one / (one @ one)
    alone = term @ root / np.sum(term**2, axis=1)
    both = (k > 0) & (offset >= 0)
    k, offset = np.where(both, k, alone), np.where(both, offset, 0.0)
    misfit = np.sum((root - k[:, None] * term - offset[:, None] * one) ** 2, axis=1)
    return np.column_stack([np.log(k) - shift, a, offset]), misfit


def _slopes(theta: Floats, t: Floats) -> Floats:
    """Derivatives of ln ŷ in (ln k, a, offset), shape (..., 3)."""
    term = np.exp(theta[0] + theta[1] * t)
    value = term + theta[2]
    return np.stack([term / value, t * term / value, 1.0 / value], axis=-1)


def _polished(theta: Floats, t: Floats, z: Floats, w: Floats) -> Floats:
    """Gauss–Newton on all free parameters, halving steps that do not improve."""
    free = 3 if theta[2] > 0 else 2
    root, misfit = np.sqrt(w), _misfit(theta, t, z, w)
    for _ in range(50):
        ratio = np.exp(_log_values(theta, t) - z)
        J = (root * ratio)[:, None] * _slopes(theta, t)[:, :free]
        unit = np.maximum(np.sqrt(np.sum(J**2, axis=0)), 1e-300)
        step = np.linalg.lstsq(J / unit, root * (1 - ratio), rcond=None)[0] / unit
        for halved in 0.5 ** np.arange(30):
            trial = theta.copy()
            trial[:free] += halved * step
            if trial[2] >= 0 and _misfit(trial, t, z, w) < misfit:
                break
        else:
            return theta
        theta, misfit = trial, _misfit(trial, t, z, w)
    return theta


def _log_values(theta: Floats, t: Floats) -> Floats:
    """Ln y of the curve with an offset, at t = ln x."""
    return np.asarray(np.log(np.exp(theta[0] + theta[1] * t) + theta[2]))


def _misfit(theta: Floats, t: Floats, z: Floats, w: Floats) -> float:
    with np.errstate(over="ignore"):
        return float(np.sum(w * (1 - np.exp(_log_values(theta, t) - z)) ** 2))


def flops_of(runs: RunTable, given: FlopsLike | None) -> FlopsFunction:
    """F(N) as given, else from the table's C/(N·D): k where it is constant, else SmoothFlops."""
    if given is not None:
        return as_flops(given)
    ratio = runs.flops / (runs.params * runs.tokens)
    k = float(np.median(ratio))
    if np.max(ratio) <= np.min(ratio) * (1 + _CONSTANT_WITHIN):
        return LinearFlops(k)
    return _smooth(runs.params, ratio) or LinearFlops(k)


def _smooth(N: Floats, ratio: Floats) -> SmoothFlops | None:
    """Least squares in relative error for each power p; the best one that stays positive."""
    n0 = float(np.exp(np.mean(np.log(N))))
    best: SmoothFlops | None = None
    least = np.inf
    for p in np.linspace(0.1, 1.5, 57):
        basis = np.column_stack([1 / ratio, (N / n0) ** -p / ratio])
        coefficients, _, rank, _ = np.linalg.lstsq(basis, np.ones_like(ratio), rcond=None)
        k, c = (float(v) for v in coefficients)
        fitted = basis @ coefficients
        positive_below = k + c * (0.1 * float(N.min()) / n0) ** -p > 0
        misfit = float(np.sum((fitted - 1) ** 2))
        if rank == 2 and k > 0 and positive_below and misfit < least:
            worst = float(np.max(np.abs(fitted - 1)))
            best = SmoothFlops(k, c, float(p), n0, float(N.min()), float(N.max()), worst)
            least = misfit
    return best
