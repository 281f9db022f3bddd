"""What tuning changed: the answer without it, and training curves on one scale."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from flops_fit.errors import FlopsFitError
from flops_fit.fit.fit import Fit
from flops_fit.fit.fitting import fit_runs
from flops_fit.fit.solver import MAD_TO_SD
from flops_fit.flops.functions import Floats
from flops_fit.recipes.published import Recipe
from flops_fit.records import Diagnostic, Experiment
from flops_fit.store.read import TrainingCurve
from flops_fit.text import format_count, listed
from flops_fit.tune.tuning import Tuning, finding

_SHARES = np.linspace(0.1, 0.95, 35)
_COMPARED = (0.3, 0.8)  # after the warmup and before the end, where all are 1 by definition
_ODD_SDS = 4.0  # robust standard deviations from the median
_FEWEST_CURVES = 5
_FEWEST_READINGS = 8  # a curve of fewer cannot be interpolated


@dataclass(frozen=True, eq=False)
class Collapse:
    """Training curves on one scale, (L(x) − E)/(L(1) − E) against the share x of the run seen.

    Runs of one schedule whose hyper-parameters scale correctly fall onto one curve (Qiu et al. 2025,
    arXiv:2507.02119). A run apart from the others is badly tuned, or at another ratio of data to
    size. L is the training loss.

    ``shares`` are x, shape (points,), and ``curves`` the scaled losses, shape (runs, points). ``spread`` is
    the standard deviation of their logarithms over runs, at each x. ``odd`` are the labels of runs that lie
    apart by more than four robust standard deviations. ``floor`` is E.
    """

    shares: Floats
    curves: Floats
    labels: tuple[str, ...]
    params: Floats
    spread: Floats
    odd: tuple[str, ...]
    floor: float

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """Runs apart from the others."""
        counts = {"odd": len(self.odd), "runs": len(self.labels)}
        names = listed(self.odd, 3, ", ")
        return (finding("collapse", names=names, **counts),) if self.odd else ()

    def rows(self) -> list[dict[str, str | float | None]]:
        """One row a point."""
        return [
            {"label": label, "params": float(n), "share": share, "scaled_loss": loss}
            for label, n, curve in zip(self.labels, self.params, self.curves, strict=True)
            for share, loss in zip(self.shares.tolist(), curve.tolist(), strict=True)
        ]


def collapse(curves: Sequence[TrainingCurve], floor: float = 0.0) -> Collapse | None:
    """The curves of completed runs on one scale; ``None`` if fewer than five can be read.

    ``floor`` is the irreducible loss E, if it is known; below every loss.
    """
    used, rows = [], []
    for curve in curves:
        end = curve.run.train_loss
        if curve.run.state != "completed" or end is None or len(curve.loss) < _FEWEST_READINGS:
            continue
        x, y = np.append(curve.share, 1.0), np.append(curve.loss, end)
        used.append(curve.run.experiment)
        rows.append((np.interp(_SHARES, x, y) - floor) / (end - floor))
    if len(used) < _FEWEST_CURVES:
        return None
    scaled = np.array(rows)
    logs = np.log(np.maximum(scaled, 1e-9))
    compared = (_COMPARED[0] <= _SHARES) & (_COMPARED[1] >= _SHARES)
    level = np.mean(logs[:, compared], axis=1)
    away = np.abs(level - np.median(level))
    scale = MAD_TO_SD * float(np.median(away))
    labels = tuple(e.label for e in used)
    odd = tuple(labels[i] for i in np.flatnonzero((away > _ODD_SDS * scale) & (scale > 0)))
    sizes = np.array([float(e.params.total) for e in used])
    return Collapse(_SHARES, scaled, labels, sizes, np.std(logs, axis=0, ddof=1), odd, floor)


@dataclass(frozen=True)
class WithoutTuning:
    """The optimum at the largest budget from the tuned runs, and from their losses without tuning.

    ``compute`` are the FLOPs of the largest fitted run. ``tuned`` and ``untuned`` are N* there; where
    ``untuned`` could not be determined, it is ``None`` and ``why`` the reason; ``how`` is what it rests on,
    and ``action`` what to do where tuning decides. The exponents are a of
    N* ∝ C^a, if the law has one. ``inside``: whether the untuned N* lies in the tuned one's 90 % interval.
    """

    compute: float
    tuned: float
    untuned: float | None
    tuned_exponent: float | None = None
    untuned_exponent: float | None = None
    inside: bool | None = None
    why: str = ""
    how: str = "the regrets of the trials, extrapolated in ln N and ln D"
    action: str = 'tune="per-size", and read sweeps with other recipes with care'

    @property
    def diagnostic(self) -> Diagnostic:
        """In words; a warning if tuning moved the answer beyond its interval."""
        if self.untuned is None:
            return finding("unknown_without_tuning", why=self.why)
        exponents = ""
        if self.tuned_exponent is not None and self.untuned_exponent is not None:
            exponents = f" (exponent {self.untuned_exponent:.3f}, not {self.tuned_exponent:.3f})"
        sizes = {"untuned": format_count(self.untuned), "tuned": format_count(self.tuned)}
        key = "tuning_decides" if self.inside is False else "without_tuning"
        words = {"exponents": exponents, "how": self.how, "action": self.action}
        return finding(key, compute=self.compute, **words, **sizes)


def without_tuning(tuning: Tuning, fit: Fit) -> WithoutTuning:
    """Add to each run the loss that the untuned recipe would have cost it, and fit again.

    In a tuned cell that is the difference of two regrets; elsewhere it is linear in ln N and ln D, no
    less than 0 and no more than twice the largest in a cell.
    """
    regrets = [(tuning.untuned_regret(i), tuning.tuned_regret(i)) for i in range(len(tuning.cells))]
    bent = [
        (c, math.log1p(before) - math.log1p(after))
        for c, (before, after) in zip(tuning.cells, regrets, strict=True)
        if before is not None and after is not None and not math.isinf(before)
    ]
    if not bent:
        return _with_losses(fit, None, "the trials' losses do not bend")
    runs = fit.runs
    logs, g = np.log([(c.params, c.units) for c, _ in bent]), np.array([gain for _, gain in bent])
    middle = np.mean(logs, axis=0)  # few cells say nothing of slopes: then it is their mean
    b = np.linalg.lstsq(logs - middle, g - np.mean(g), rcond=None)[0]
    off = np.column_stack([np.log(runs.params), np.log(runs.tokens)]) - middle
    extra = np.clip(np.mean(g) + off @ b, 0.0, 2 * max(float(np.max(g)), 0.0))
    return _with_losses(fit, extra)


def without_climbing(fit: Fit, made: Sequence[Experiment], recipe: Recipe) -> WithoutTuning:
    """The same for a sweep that tuned itself, by the regret of its recipe in the fitted valley."""
    rule, runs, labels = fit.hparams, fit.runs, {e.label: e for e in made}
    if rule is None:
        return _with_losses(fit, None, "no rule was fitted")
    of_runs = [labels[label] for label in runs.labels]
    own = [recipe(e.params, e.tokens, e.unit) for e in of_runs]
    lr = np.array([h.lr for h in own])
    batch = np.array(
        [max(h.batch_units, e.units_per_sample) for h, e in zip(own, of_runs, strict=True)]
    )
    extra = rule.expected(replace(runs, lr=lr, batch_units=batch))
    how = "what the recipe's rate and batch cost in the fitted valley"
    action = "read sweeps with other recipes with care"
    return replace(_with_losses(fit, extra), how=how, action=action)


def _with_losses(fit: Fit, extra: Floats | None, why: str = "") -> WithoutTuning:
    """The answer with ``extra`` added to each ln L, beside the fit's own."""
    C, runs = fit.largest_compute, fit.runs
    tuned = fit.predict(C)
    interval = tuned.intervals.get("optimal_params")
    known = WithoutTuning(C, tuned.optimal_params, None, _exponent(fit), why=why)
    if extra is None:
        return known
    try:
        other = fit_runs(replace(runs, loss=runs.loss * np.exp(extra)), flops_per_unit=fit.flops)
        untuned = other.predict(C).optimal_params
    except FlopsFitError as error:
        return replace(known, why=f"no law fits ({error})")
    inside = None if interval is None else bool(interval[0] <= untuned <= interval[1])
    return replace(known, untuned=untuned, untuned_exponent=_exponent(other), inside=inside)


def _exponent(fit: Fit) -> float | None:
    exponents = getattr(fit, "exponents", None)
    return exponents[0] if exponents else None
