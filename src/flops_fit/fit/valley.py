"""The valley of learning rate and batch, and weight decay, around the law, fitted with it.

A run at its best rate and batch has the loss of the law, the floor; any other lies above it:

    ln L = ln floor(N, D) + R,    R = c_η·D^f·u²·exp(s·tanh u) + c_B·v² + c_τ·w²,
    u = ln η − [a₀ + a₁ ln N + a₂ ln D + a₃ v],    v = ln B − [b₀ + b₁ ln D + b₂ ln N],
    w = ln τ − [d₀ + d₁ ln D + d₂ ln N].

R is the regret. τ = B/(η·λ·D) is the share of the run over which AdamW with weight decay λ averages (Wang
& Aitchison 2024, arXiv:2405.13698); its term is there where λ was varied beside rate and batch. Small tables
do not determine so many constants: they have priors from public runs (:class:`ValleyPrior`), and their
posterior, which is curved, is drawn by :mod:`flops_fit.fit.sampler`. Noise is Student's t, and larger where
R is, because the form of R is not exact. The m runs of one N and D miss in common: each counts
1/(1 + (m − 1)ρ), the design effect of Kish 1965. Of a diverged run it is known that its loss is above the
largest of its cell, of one that was stopped as hopeless above which.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np

from flops_fit.fit.misfit_mean import KappaMean, MisfitPrior
from flops_fit.fit.ridge import LAW, bent, straight
from flops_fit.fit.sampler import sample
from flops_fit.fit.surface import Points, points_of
from flops_fit.fit.surface_solver import SurfaceSolver
from flops_fit.flops.functions import Bools, Floats, Indices
from flops_fit.laws.kappa import Hoffmann
from flops_fit.table.run_table import RunTable

NAMES = (
    "a0", "a1", "a2", "a3", "b0", "b1", "b2", "ln_c_lr", "ln_c_batch", "skew", "fall",
    "d0", "d1", "d2", "ln_c_decay",
)  # fmt: skip
DRAWS = 400
_OF_RATE = (0, 1, 2, 7, 9, 10)  # what is left where the batch follows from N and D
_OF_BATCH = (4, 5, 6, 8)
_OF_BOTH = (3,)
_OF_DECAY = (11, 12, 13, 14)
CURVATURES = (7, 8, 14)  # ln c of rate, batch and weight decay
_USUAL_NOISE, _NOISE_SPREAD = 0.003, 0.5  # of one run, and sd of its log
_NU = 5.0  # of Student's t
_OFFSETS = (-1.5, 0.0, 1.5)  # starts of a₀ and b₀ around the runs
_ROUNDS, _STEPS = 3, 60
_SAME_CELL = 0.02  # in ln N and ln D
_NO_CURVATURE = -80.0  # ln c of what is no part of the valley
_SEARCHED_NOISE = 0.001  # least one of a mode: few runs may be met exactly
_LEAST_NOISE = 0.0015  # that the form's error is compared with
_LEAST_REGRET = 0.05  # of a diverged run, where its cell has no other


@dataclass(frozen=True)
class ValleyPrior:
    """Means and standard deviations of the valley's constants before the runs are seen.

    Fitted with wide priors, 2,702 dense and 708 mixture-of-experts runs of StepLaw (Li et al. 2025,
    arXiv:2503.04715) have a₁ −.58 and −.07 (N active), a₂ .28 and .18, a₃ .28 and .30, b₁ .55 and .52,
    b₂ −.07 and −.20, c_η .009 and .012, c_B .007 and .007, s .6 and −.3; a byte-level GPT of 1e4
    parameters has c_η .055 and c_B .03. From 2e9 to 2e10 tokens and beyond, c_η of single cells falls with
    f −.35 (dense) and −.4 (experts); all runs together say −.15 and −.34. Published rules of other groups
    lie between (a₁ + a₂ from −.39 to −.25, b₁ + b₂ from .57 to .67, a₃ up to .5). The standard deviations
    are those of families, not of runs. a₀, b₀ and d₀ are the optimum's distance from the middle of the runs.
    d₁ and d₂ are near τ ∝ (D/N)^−.53 (Bergsma et al. 2025, arXiv:2505.13738); how wide they are, and c_τ, is
    assumed.

    ``form`` is the error of R relative to R, ``shared`` the correlation of the misses within a cell.
    ``names`` say what is fitted: ``"lr"``, ``"batch_units"``, both, or ``"weight_decay"`` beside them; by
    default what the runs vary.
    """

    a0: tuple[float, float] = (0.0, 1.5)
    a1: tuple[float, float] = (-0.5, 0.3)
    a2: tuple[float, float] = (0.25, 0.15)
    a3: tuple[float, float] = (0.35, 0.15)
    b0: tuple[float, float] = (0.0, 1.5)
    b1: tuple[float, float] = (0.55, 0.15)
    b2: tuple[float, float] = (-0.1, 0.15)
    ln_c_lr: tuple[float, float] = (-4.4, 0.8)
    ln_c_batch: tuple[float, float] = (-4.8, 0.7)
    skew: tuple[float, float] = (0.2, 0.4)
    fall: tuple[float, float] = (-0.3, 0.2)
    d0: tuple[float, float] = (0.0, 1.5)
    d1: tuple[float, float] = (-0.5, 0.25)
    d2: tuple[float, float] = (0.5, 0.25)
    ln_c_decay: tuple[float, float] = (-5.5, 1.0)
    form: float = 0.12
    shared: float = 0.15
    names: tuple[str, ...] = ()
    source: str = "StepLaw 2025 (dense and mixture-of-experts language models), a byte-level GPT"

    def widened(self, factor: float) -> ValleyPrior:
        """The same with standard deviations ``factor`` times as large."""
        pairs = {name: getattr(self, name) for name in NAMES}
        wide = {name: (mean, sd * factor) for name, (mean, sd) in pairs.items()}
        return replace(self, **wide)  # type: ignore[arg-type]  # NAMES are pairs


@dataclass(frozen=True, eq=False)
class Regret:
    """R and its slopes over the constants, for a batch of them; slopes in the order of NAMES."""

    value: Floats
    u: Floats
    v: Floats
    w: Floats
    slopes: Floats | None = None


def regret(
    phi: Floats,
    x: Floats,
    y: Floats,
    rate: Floats,
    batch: Floats,
    memory: Floats | None = None,
    slopes: bool = False,
) -> Regret:
    """The regret of centred logs of N, D, η, B and τ, of shape (points,): (batch, points)."""
    a0, a1, a2, a3, b0, b1, b2, ln_c, ln_cb, s, fall, d0, d1, d2, ln_cd = phi.T[:, :, None]
    v = batch - (b0 + b1 * y + b2 * x)
    u = rate - (a0 + a1 * x + a2 * y + a3 * v)
    tanh = np.tanh(u)
    grow = np.exp(ln_c + fall * y + s * tanh)
    of_rate, of_batch = grow * u * u, np.exp(ln_cb) * v * v
    per_u = grow * u * (2.0 + s * u * (1.0 - tanh * tanh))
    value = of_rate + of_batch
    of_decay = w = np.zeros_like(v)
    if memory is not None:
        w = memory - (d0 + d1 * y + d2 * x)
        of_decay = np.exp(ln_cd) * w * w
        value = value + of_decay
    if not slopes:
        return Regret(value, u, v, w)
    per_b = a3 * per_u - 2.0 * np.exp(ln_cb) * v
    rows: tuple[Floats, ...] = (
        -per_u, -per_u * x, -per_u * y, -per_u * v, per_b, per_b * y, per_b * x,
        of_rate, of_batch, of_rate * tanh, of_rate * y,
    )  # fmt: skip
    if memory is not None:
        per_d = -2.0 * np.exp(ln_cd) * w
        rows = (*rows, per_d, per_d * y, per_d * x, of_decay)
    return Regret(value, u, v, w, np.stack(rows, axis=1))


@dataclass(frozen=True, eq=False)
class _Problem:
    """Law and valley at coordinates q = (η of the law, free constants of the valley), in batches.

    ``at`` are all runs in centred logs, ``censored`` those without a loss, after the others.
    """

    mean: KappaMean
    at: Points
    rate: Floats
    batch: Floats
    memory: Floats | None
    censored: Bools
    free: Indices
    centre: Floats
    precision: Floats
    middle: Floats
    prior: ValleyPrior
    weight: Floats
    root: Floats

    def phi(self, q: Floats) -> Floats:
        """All constants; what is not free has no effect."""
        out = np.zeros((len(q), len(NAMES)))
        out[:, CURVATURES] = _NO_CURVATURE
        out[:, self.free] = q[:, LAW:]
        return out

    def local(self, q: Floats) -> tuple[Floats, Floats]:
        """Residuals over their noise (batch, runs) and slopes of the model (batch, k, runs)."""
        model, of_law = self.mean.local(q[:, :LAW], self.at)
        at = self.at.x, self.at.y, self.rate, self.batch, self.memory
        found = regret(self.phi(q), *at, slopes=True)
        assert found.slopes is not None
        r = self.at.z - model - found.value
        J = np.concatenate([of_law, found.slopes[:, self.free]], axis=1)
        above = self.censored & (r < 0)  # the model is above what the loss exceeds: nothing to say
        r, J = np.where(above, 0.0, r), np.where(above[:, None], 0.0, J)
        return r * self.root, J * self.root

    def potential(self, q: Floats, ln_sigma: Floats) -> tuple[Floats, Floats]:
        """−ln density and its gradient over (q, ln σ)."""
        r, J = self.local(q)
        scale = np.exp(-2 * ln_sigma)[:, None]
        inside = 1 + r * r * scale / _NU
        pull = self.weight * (_NU + 1) / _NU * r * scale / inside
        off = (q - self.centre) @ self.precision
        count = np.sum(self.weight[~self.censored])
        wide = (ln_sigma - np.log(_USUAL_NOISE)) / _NOISE_SPREAD
        value = 0.5 * (_NU + 1) * np.sum(self.weight * np.log(inside), axis=1) + count * ln_sigma
        value += 0.5 * np.sum(off * (q - self.centre), axis=1) + 0.5 * wide**2
        slope = off - (J @ pull[..., None])[..., 0]
        of_sigma = count - np.sum(pull * r, axis=1) + wide / _NOISE_SPREAD
        return value, np.hstack([slope, of_sigma[:, None]])


def _mode(problem: _Problem, q: Floats, ln_sigma: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Damped Gauss–Newton from a batch of starts: q, ln σ, −ln density, Hessian over (q, ln σ)."""
    k = q.shape[1]
    damping, index = np.full(len(q), 1e-2), np.arange(k)

    def state(q: Floats, ln_sigma: Floats) -> tuple[Floats, Floats, Floats]:
        value, gradient = problem.potential(q, ln_sigma)
        r, J = problem.local(q)
        scale = np.exp(-2 * ln_sigma)[:, None]
        weight = problem.weight * (_NU + 1) / _NU * scale / (1 + r * r * scale / _NU)
        return (
            value,
            gradient[:, :k],
            (J * weight[:, None]) @ np.swapaxes(J, 1, 2) + problem.precision,
        )

    for _ in range(_STEPS):
        value, g, H = state(q, ln_sigma)
        damped = H.copy()
        damped[:, index, index] *= 1 + damping[:, None]
        step = -np.linalg.solve(damped, g[..., None])[..., 0]
        trial = q + np.clip(step, -1.0, 1.0)
        new = problem.potential(trial, ln_sigma)[0]
        better = new < value
        q = np.where(better[:, None], trial, q)
        damping = np.clip(np.where(better, damping / 6, damping * 6), 1e-8, 1e8)
        r = problem.local(q)[0]
        for _ in range(2):  # the maximum of Student's t over its scale
            scale = np.exp(-2 * ln_sigma)[:, None]
            share = (_NU + 1) / _NU * r * r * scale / (1 + r * r * scale / _NU)
            share = np.average(share, axis=1, weights=problem.weight)
            ln_sigma = ln_sigma + 0.5 * np.log(np.clip(share, 0.05, 20.0))
        ln_sigma = np.clip(ln_sigma, np.log(_SEARCHED_NOISE), 0.0)
        if np.all((np.abs(new - value) < 1e-3) & (damping < 1.0)):
            break
    value, _, H = state(q, ln_sigma)
    full = np.zeros((len(q), k + 1, k + 1))
    full[:, :k, :k], full[:, k, k] = H, 2.0 * np.sum(problem.weight) * _NU / (_NU + 3)
    return q, ln_sigma, value, full


@dataclass(frozen=True, eq=False)
class Valley:
    """What the runs say of the valley: ``draws`` of the constants, at the runs' centred logs.

    ``centre`` are the means of ln N, ln D, ln η, ln B and ln τ, ``plane`` what of :func:`bends` is linear
    over the runs, as rows for 1, x and y. ``noise`` is the scatter of a run at the
    mode, ``effective`` how many of the drawn constants the data determined, ``sampler`` how they were
    drawn, and ``mixing`` the ratio of the chains' spread to that within them (1: mixed).
    """

    free: Indices
    centre: Floats
    plane: Floats
    draws: Floats
    noise: float
    effective: float
    sampler: str
    mixing: float
    prior: ValleyPrior


def fit_valley(
    runs: RunTable,
    rate: Floats | None,
    batch: Floats | None,
    prior: ValleyPrior,
    memory: Floats | None = None,
) -> Valley:
    """The valley of the runs' ``rate``, ``batch`` and ``memory`` τ, ``None`` where one is not part of it."""
    problem = _problem(runs, rate, batch, memory, prior)
    starts = []
    offsets = ((0.0,) if column is None else _OFFSETS for column in (rate, batch))
    for of_rate, of_batch in itertools.product(*offsets):
        phi = problem.phi(problem.centre[None])[0]
        phi[0] += of_rate
        phi[4] += of_batch
        starts.append(np.hstack([problem.mean.start, phi[problem.free]]))
    q, ln_sigma = np.array(starts), np.full(len(starts), np.log(0.01))
    for _ in range(_ROUNDS):
        q, ln_sigma, value, H = _mode(problem, q, ln_sigma)
        order = np.argsort(value)[:3]
        q, ln_sigma, value, H = q[order], ln_sigma[order], value[order], H[order]
        problem = _scaled(problem, q[0], float(np.exp(ln_sigma[0])))
    q, ln_sigma, value, H = _mode(problem, q, ln_sigma)
    best = int(np.argmin(value))
    at = np.append(q[best], ln_sigma[best])
    start, J = straight(at[None]), np.eye(len(at))
    J[:LAW, :LAW] = bent(start)[1][0]

    def potential(at: Floats) -> tuple[Floats, Floats]:
        q, slopes = bent(at)
        value, gradient = problem.potential(q[:, :-1], q[:, -1])
        gradient[:, :LAW] = (gradient[:, None, :LAW] @ slopes)[:, 0]
        return value, gradient

    drawn = sample(potential, start[0], J.T @ H[best] @ J, DRAWS, len(problem.at.z))
    draws = bent(drawn.values)[0]
    phi = problem.phi(draws[:, :-1])
    spread = np.atleast_2d(np.cov(draws[:, LAW:-1].T)) * np.diag(problem.precision)[LAW:]
    effective = float(np.sum(np.clip(1 - np.diag(spread), 0.0, 1.0)))
    noise = float(np.exp(np.median(draws[:, -1])))
    inside = ~problem.censored
    x, y = problem.at.x[inside], problem.at.y[inside]
    flat = np.column_stack([np.ones(len(x)), x, y])
    plane = np.asarray(np.linalg.lstsq(flat, bends(x, y), rcond=None)[0], dtype=np.float64)
    how = (drawn.method, drawn.mixing, prior)
    return Valley(problem.free, problem.middle, plane, phi, noise, effective, *how)


def bends(x: Floats, y: Floats) -> Floats:
    """Three terms beside 1, x and y, (points, 3): x², xy and y² near the middle, straight far off."""
    across = [
        2 * np.sqrt(1 + z * z) - 2 for z in (x, y, (x + y) / np.sqrt(2), (x - y) / np.sqrt(2))
    ]
    return np.column_stack([across[0], (across[2] - across[3]) / 2, across[1]])


def _problem(
    runs: RunTable,
    rate: Floats | None,
    batch: Floats | None,
    memory: Floats | None,
    prior: ValleyPrior,
) -> _Problem:
    """Runs, and those without a loss, in centred logs, with the priors of law and valley."""
    points = points_of(runs, log=True)
    solution = SurfaceSolver(Hoffmann, points).fit(np.ones(len(runs)), "mad")
    mean = KappaMean(solution, MisfitPrior(), hold_kappa=False, known=None)
    lost, count = np.array(runs.censored).reshape(-1, 5).T, len(runs)
    given = (np.ones(count) if column is None else column for column in (rate, batch))
    logs = np.log(np.hstack([[runs.params, runs.tokens, *given], lost[:4]]))
    logs[2 if rate is None else 3, count:] *= rate is not None and batch is not None
    middle = np.mean(logs[:, :count], axis=1)
    middle[:2] = points.x_mean, points.y_mean
    logs = logs - middle[:, None]
    middle = np.append(middle, 0.0 if memory is None else np.mean(np.log(memory)))
    if memory is not None:  # of a run without a loss it is taken for the middle one
        memory = np.append(np.log(memory) - middle[4], np.zeros(lost.shape[1]))
    cells = np.unique(np.round(logs[:2].T / _SAME_CELL), axis=0, return_inverse=True)[1].ravel()
    floor = mean.values(mean.start[None], *logs[:2])[0] + _LEAST_REGRET
    z = np.append(points.z, floor[count:])
    for i, bound in enumerate(np.log(lost[4] / points.scale), start=count):
        same = np.flatnonzero(cells[:count] == cells[i])
        highest = max(z[i], float(np.max(points.z[same], initial=-np.inf)))
        z[i] = highest if np.isnan(bound) else bound
    both = None if batch is None else rate
    parts = ((rate, _OF_RATE), (batch, _OF_BATCH), (both, _OF_BOTH), (memory, _OF_DECAY))
    free = np.array(sorted(i for column, at in parts if column is not None for i in at))
    known = np.array([getattr(prior, NAMES[i]) for i in free])
    precision = np.zeros((LAW + len(free),) * 2)
    precision[:LAW, :LAW] = mean.precision
    precision[range(LAW, len(precision)), range(LAW, len(precision))] = known[:, 1] ** -2.0
    centre = np.concatenate([mean.centre, known[:, 0]])
    at = replace(points, x=logs[0], y=logs[1], z=z)
    censored = np.arange(len(z)) >= count
    others = np.bincount(cells[:count], minlength=max(cells) + 1)[cells] - 1
    weight = 1 / (1 + np.maximum(others, 0) * prior.shared)
    fixed = (free, centre, precision, middle, prior, weight, np.ones(len(z)))
    return _Problem(mean, at, logs[2], logs[3], memory, censored, *fixed)


def form_error(found: Floats, prior: ValleyPrior, noise: float) -> Floats:
    """The noise variance of a run of regret R over that of one at its best."""
    return np.asarray(1.0 + (prior.form * found / max(noise, _LEAST_NOISE)) ** 2)


def _scaled(problem: _Problem, q: Floats, noise: float) -> _Problem:
    """The problem with the noise that runs have by their regrets at one point."""
    at = problem.at.x, problem.at.y, problem.rate, problem.batch, problem.memory
    found = regret(problem.phi(q[None]), *at).value[0]
    return replace(problem, root=form_error(found, problem.prior, noise) ** -0.5)
