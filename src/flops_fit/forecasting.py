"""What a run will end at: its curve so far, continued along its schedule by the multi-power law."""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from scipy.optimize import least_squares
from scipy.special import ndtri

from flops_fit.errors import InputError, InputTypeError, check_number, nearest_name
from flops_fit.hparams import SCHEDULES, HParams, learning_rate
from flops_fit.table.cells import Floats
from flops_fit.table.curves import read_points
from flops_fit.text import format_count

Schedule = str | Mapping[str, Any] | Callable[[float], float] | Sequence[float] | Floats

_CELLS = 256  # that a schedule is cut into
_BINS = 40  # that a curve is averaged in
_SKIPPED = 0.1  # of what was seen after the warmup: the law does not hold there
_LEAST = 8  # points behind that
_MOST_EARLIER = 12
# The law's shape: ln of α, of B relative to A, of C per step at the peak rate, of β and of γ.
_USUAL = np.log([0.45, 0.7, 0.011, 1.0, 0.6])
_USUAL_SD = np.array([0.4, 0.8, 1.5, 0.5, 0.3])
_MOST_STEPS, _TYPICAL_STEPS = 1e7, 2e4  # longer runs are counted in tokens, and C is per step
_BETWEEN_RUNS = np.array([0.1, 0.15, 0.3, 0.1, 0.1])  # sd of the shape of two runs of a sweep
_MISFIT = 0.0015  # of the law along a curve, relative to the loss
_AHEAD = 0.13  # and at the end, relative to what the loss has still to fall
_LAST, _FAR_OFF = 4, 3.0  # bins at the end of a curve, and sd from which they are off the law


@dataclass(frozen=True, eq=False)
class Forecast:
    """Where a run will end; its text is a sentence.

    Attributes
    ----------
    value
        The expected loss at the end of the schedule: of the kind that the curve shows, without the noise
        of one reading.
    interval, level
        Where it lies with probability ``level``.
    end
        The position at which the run ends, in the unit of the curve.
    seen
        The share of the run that the curve shows.
    at, loss
        The law along the whole run after its warmup: positions and losses, arrays of shape (points,).
    constants
        The law's: ``E``, ``A``, ``alpha``, ``B``, ``C``, ``beta`` and ``gamma``, for rates relative to the
        peak and positions in the unit of the curve.
    """

    value: float
    interval: tuple[float, float]
    level: float
    end: float
    seen: float
    at: Floats
    loss: Floats
    constants: dict[str, float]

    def __str__(self) -> str:
        where = f"{self.end:,.0f}" if self.end < 1e6 else format_count(self.end)
        return f"expected {self.value:.{self._digits}f} ({self.span}) at step {where}"

    @property
    def span(self) -> str:
        """``1.51–1.53``, the interval as text."""
        return "–".join(f"{bound:.{self._digits}f}" for bound in self.interval)

    @property
    def _digits(self) -> int:
        width = max(self.interval[1] - self.interval[0], 1e-6 * abs(self.value), 1e-300)
        return max(2, -math.floor(math.log10(width)))


def forecast(
    curve: Any,
    schedule: Schedule = "cosine",
    *,
    end: float | None = None,
    prior: Iterable[Sequence[Any]] = (),
    level: float = 0.9,
) -> Forecast:
    """The loss at the end of a run that is under way.

    The curve is fitted with the multi-power law (Luo et al. 2025, arXiv:2503.12811)

        L(t) = E + A·S₁(t)^−α − B·Σₖ (ηₖ₋₁ − ηₖ)·(1 − (1 + C·ηₖ^−γ·Sₖ(t))^−β),

    η being rates relative to their peak, k all steps after the warmup, Sₖ(t) the sum of rates from step k
    to t, and S₁ the sum of √η from the start: on the published curves that leaves a quarter to a third less
    misfit than their sum of η, for each of three sizes. The constants have priors: wide ones, or those of
    earlier runs. The interval is that of the constants, widened by 13 % of what the loss has still to
    fall, by which the form may be off, and by how far the last readings lie off the law beyond noise.

    Parameters
    ----------
    curve
        The loss so far: a pair of arrays (positions, losses), an entry of :class:`~flops_fit.Curves`, or a
        table with columns such as ``step`` and ``loss``: a CSV or JSONL file, a dict, a list of dicts, a
        data frame. Positions are steps, or units in proportion to them. Of a position that stands twice, as
        after a resume, the last reading counts.
    schedule
        Of the learning rate: ``"cosine"``, ``"wsd"`` or ``"constant"`` as :class:`HParams` has them by
        default, an :class:`HParams`, a function of the position, or rates at equal distances from the start
        to the end, such as one a step. Only their ratios matter.
    end
        Where the run ends, in the unit of the curve; by default the number of rates.
    prior
        Earlier runs like this one, such as smaller ones of the same sweep: (curve, schedule) or (curve,
        schedule, end) of each, whose end is by default that of its curve. Of more than twelve the last are
        used.
    level
        Probability of the interval.

    Raises
    ------
    InputError, TableError
        Where there are fewer than eight points after the warmup, the run ends before its curve does, a table
        holds several runs, or the rates are not those of the whole run.

    Examples
    --------
    >>> steps = np.arange(100, 2_100, 100)
    >>> print(forecast((steps, 2 + 20 * steps**-0.5), "constant", end=4_000))
    expected 2.32 (2.31–2.32) at step 4,000
    """
    check_number("level", level, above=0, below=1)
    run, unit = _Run.read(curve, schedule, end, "curve"), 1.0
    if run.edges[-1] > _MOST_STEPS:
        unit = float(run.edges[-1]) / _TYPICAL_STEPS
        run = _Run.read(curve, schedule, end, "curve", unit)
    earlier = [_Run.read(*one, "prior", unit, over=True) for one in _earlier(prior)]
    mean, precision = _USUAL, np.diag(_USUAL_SD**-2)
    scale = float(run.root[-1])
    if earlier := earlier[-_MOST_EARLIER:]:
        _, mean, inverse = _fit(earlier, mean, precision, scale)
        inverse = inverse[-5:, -5:] + np.diag(_BETWEEN_RUNS**2)
        precision = np.linalg.inv(inverse)
    own, shape, covariance = _fit([run], mean, precision, scale)
    theta = np.concatenate([own[0], shape])
    ahead, slope = run.law(theta, run.edges[-1:], scale)
    fitted, _ = run.law(theta, run.at[-1:], scale)
    value = float(ahead[0])
    misfit = _AHEAD * abs(float(fitted[0]) - value) + run.off(theta, scale)
    half = float(
        ndtri((1 + level) / 2) * np.hypot(np.sqrt(slope[0] @ covariance @ slope[0]), misfit)
    )
    shown, last = run.edges[run.peak + 1 :], float(run.edges[-1])
    alpha, b, c, beta, gamma = np.exp(shape)
    A = float(np.exp(own[0, 1]) * (unit * scale) ** alpha)
    names = ("E", "A", "alpha", "B", "C", "beta", "gamma")
    constants = (own[0, 0], A, alpha, b * np.exp(own[0, 1]), c / unit, beta, gamma)
    return Forecast(
        value, (value - half, value + half), level, unit * last,
        min(run.last / last, 1.0), unit * shown, run.law(theta, shown, scale)[0],
        dict(zip(names, map(float, constants), strict=True)),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Run:
    """A curve in bins and its schedule in cells."""

    at: Floats  # of each bin: the mean position, the mean loss and its sd
    loss: Floats
    sd: Floats
    last: float
    edges: Floats  # of the cells of the schedule, and sums of the rate and of its root up to them
    sums: Floats
    root: Floats
    peak: int  # the cell with the first peak
    drops: Floats  # of the rate at the edges behind that, the rates there, and the sums up to there
    rates: Floats
    starts: Floats

    @classmethod
    def read(
        cls, curve: Any, schedule: Schedule, end: float | None, name: str, unit: float = 1.0,
        over: bool = False,
    ) -> Self:  # fmt: skip
        """Positions in ``unit``; a run that is ``over`` ends where its curve does, or at ``end``."""
        x, loss = read_points(curve, name)
        known = _known(schedule)
        if end is None and over:
            end = float(x[-1])
        elif end is None and isinstance(known, np.ndarray):
            end = float(len(known))
        end = check_number("end", end, above=0, expected="the position at which the run ends")
        if end < x[-1] * (1 - 1e-9):
            raise InputError(
                f"{name}: expected a run that ends after its curve; {end:g} < {x[-1]:g}. Give the end in the "
                "unit of the curve."
            )
        part = isinstance(known, np.ndarray) and len(known) in (len(x), round(x[-1]))
        if part and end > x[-1] + np.ptp(x) / max(len(x) - 1, 1):
            raise InputError(
                f"schedule: expected the rates of the whole run, up to {end:g}; got {len(known)}, as many "
                f"as the curve has up to {x[-1]:g}. Add those still to come, or give a function."
            )
        edges = np.linspace(0, end, _CELLS + 1)
        rates = _rates(known, (edges[1:] + edges[:-1]) / 2, end)
        peak = int(np.argmax(rates >= rates.max() * (1 - 1e-9)))
        width = end / unit / _CELLS
        sums, root = (np.append(0.0, np.cumsum(r) * width) for r in (rates, np.sqrt(rates)))
        drops = -np.diff(rates[peak:])
        falls = drops != 0
        between = (rates[peak:-1] + rates[peak + 1 :]) / 2
        start = edges[peak] + _SKIPPED * max(x[-1] - edges[peak], 0)
        if (behind := np.sum(x >= start)) < _LEAST or x[-1] <= edges[peak]:
            raise InputError(
                f"{name}: expected at least {_LEAST} points from {start:.4g} on, where the warmup is over; "
                f"got {behind} of {len(x)}, up to {x[-1]:.4g} of {end:.4g}. Ask again later in the run."
            )
        binned = _binned(x[x >= start] / unit, loss[x >= start])
        return cls(
            *binned, float(x[-1]) / unit, edges / unit, sums, root, peak,
            drops[falls], np.maximum(between[falls], 1e-3), sums[peak + 1 : -1][falls],
        )  # fmt: skip

    def off(self, theta: Floats, scale: float) -> float:
        """How far the last bins lie off the law, as those of a run that diverges; 0 within noise."""
        last = slice(-_LAST, None)
        away = np.abs(self.loss[last] - self.law(theta, self.at[last], scale)[0])
        return float(np.median(np.where(away > _FAR_OFF * self.sd[last], away, 0.0)))

    def law(self, theta: Floats, at: Floats, scale: float) -> tuple[Floats, Floats]:
        """The law at some positions, (points,), and its derivative by its seven constants, (points, 7).

        Theta is E, and the logarithms of A·scale^−α, α, B by that, C, β and γ.
        """
        a, alpha, b, c, beta, gamma = np.exp(theta[1:])
        relative = np.interp(at, self.edges, self.root) / scale
        power = a * relative**-alpha
        since = np.maximum(np.interp(at, self.edges, self.sums)[:, None] - self.starts, 0)
        u = c * self.rates**-gamma * since
        log = np.log1p(u)
        left = np.exp(-beta * log)
        drop = (1 - left) @ self.drops
        by_u = beta * left * u / (1 + u)
        loss = theta[0] + power - a * b * drop
        columns = (
            np.ones_like(at), power - a * b * drop, -alpha * np.log(relative) * power, -a * b * drop,
            -a * b * (by_u @ self.drops), -a * b * beta * ((left * log) @ self.drops),
            a * b * gamma * (by_u @ (self.drops * np.log(self.rates))),
        )  # fmt: skip
        return loss, np.stack(columns, axis=1)


def _fit(
    runs: Sequence[_Run], mean: Floats, precision: Floats, scale: float
) -> tuple[Floats, Floats, Floats]:
    """E and ln A of each run, (runs, 2), the shape that they share, (5,), and the covariance of all."""
    count = len(runs)
    level = np.array([np.mean(np.abs(run.loss)) for run in runs])
    usual = np.log(0.1 * level)
    root = np.linalg.cholesky(precision).T

    @functools.lru_cache(maxsize=1)  # the solver asks for values, then for slopes
    def at(key: bytes) -> tuple[Floats, Floats]:
        z = np.frombuffer(key)
        out, slopes = [], []
        for i, run in enumerate(runs):
            loss, slope = run.law(np.concatenate([z[2 * i : 2 * i + 2], z[-5:]]), run.at, scale)
            wide = np.zeros((len(loss), len(z)))
            wide[:, 2 * i : 2 * i + 2], wide[:, -5:] = slope[:, :2], slope[:, 2:]
            out.append((loss - run.loss) / run.sd)
            slopes.append(wide / run.sd[:, None])
        out += [root @ (z[-5:] - mean), (z[1:-5:2] - usual) / 1.5]
        prior = np.zeros((5 + count, len(z)))
        prior[:5, -5:] = root
        prior[5 + np.arange(count), 1 + 2 * np.arange(count)] = 1 / 1.5
        return np.concatenate(out), np.concatenate([*slopes, prior])

    start = np.concatenate([np.stack([0.9 * level, usual], axis=1).ravel(), mean])
    steps = np.concatenate(
        [np.stack([0.05 * level, 0 * level + 0.3], axis=1).ravel(), 0 * mean + 0.3]
    )
    far = np.concatenate([np.tile([np.inf, 6.0], count), 4 * _USUAL_SD])
    found = least_squares(
        lambda z: at(z.tobytes())[0], start, lambda z: at(z.tobytes())[1], (start - far, start + far),
        x_scale=steps, loss="huber", f_scale=3.0, max_nfev=100,
    )  # fmt: skip
    slope = at(found.x.tobytes())[1]
    covariance = np.array(np.linalg.pinv(slope.T @ slope), dtype=np.float64)
    return found.x[:-5].reshape(-1, 2), found.x[-5:], covariance


def _binned(x: Floats, loss: Floats) -> tuple[Floats, Floats, Floats]:
    """Means over equal parts; their sd from the noise of neighbours, and the law's misfit."""
    noise = float(np.median(np.abs(np.diff(loss, 2)))) / 0.6745 / math.sqrt(6)
    parts = np.linspace(x[0], x[-1], min(_BINS, len(x)) + 1)
    part = np.clip(np.searchsorted(parts, x) - 1, 0, len(parts) - 2)
    count, *sums = (np.bincount(part, w, len(parts) - 1) for w in (x * 0 + 1, x, loss))
    full = count > 0
    n, at, mean = count[full], sums[0][full] / count[full], sums[1][full] / count[full]
    misfit = _MISFIT * float(np.mean(np.abs(mean))) + 1e-12
    return at, mean, np.asarray(np.hypot(noise / np.sqrt(n), misfit))


def _known(schedule: Any) -> Any:
    """A schedule as HParams, a function or an array of rates."""
    if isinstance(schedule, str):
        if schedule not in SCHEDULES:
            raise InputError(
                f"schedule: expected one of {list(SCHEDULES)}, a function of the position, or rates; got "
                f"{schedule!r}.{nearest_name(schedule, SCHEDULES)}"
            )
        schedule = {"schedule": schedule}
    if isinstance(schedule, Mapping) and not isinstance(schedule, HParams):
        names = [f.name for f in fields(HParams) if f.init]
        if wrong := [name for name in schedule if name not in names]:
            raise InputError(f"schedule: expected some of {names}; got {wrong}.")
        schedule = HParams(**{"lr": 1.0, "batch_units": 1.0, **schedule})
    if isinstance(schedule, HParams) or callable(schedule):
        return schedule
    with suppress(TypeError, ValueError):
        rates = np.asarray(schedule, dtype=float)
        if rates.ndim == 1 and len(rates) > 1:
            return rates
    raise InputTypeError(
        f"schedule: expected a name, HParams, a function or two or more rates; got {schedule!r:.80}."
    )


def _rates(schedule: Any, at: Floats, end: float) -> Floats:
    """Rates at some positions, relative to their peak."""
    if isinstance(schedule, HParams):
        given = np.array([learning_rate(schedule, x, end) for x in at])
    elif isinstance(schedule, np.ndarray):
        given = schedule
    else:
        given = np.array([schedule(float(x)) for x in at], dtype=float)
    wrong = given[~(np.isfinite(given) & (given >= 0))]
    if len(wrong) or not np.any(given > 0):
        shown = f"{wrong[0]:g}" if len(wrong) else "0 everywhere"
        raise InputError(
            f"schedule: expected rates of 0 or more, at least one above, from 0 to {end:g}; got {shown}."
        )
    if isinstance(schedule, np.ndarray):
        given = np.interp(at, (np.arange(len(given)) + 0.5) * end / len(given), given)
    return np.asarray(given / given.max())


def _earlier(prior: Any) -> list[tuple[Any, Any, float | None]]:
    """Curve, schedule and end of each earlier run."""
    runs = list(prior) if isinstance(prior, Iterable) else [prior]
    if not all(isinstance(run, tuple | list) and len(run) in (2, 3) for run in runs):
        raise InputTypeError(
            "prior: expected (curve, schedule) or (curve, schedule, end) of each run, in a list; got "
            f"{prior!r:.80}."
        )
    return [(run[0], run[1], run[2] if run[2:] else None) for run in runs]
