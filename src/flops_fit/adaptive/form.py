"""Whether the runs contradict the law's form, and which deviations they could not detect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flops_fit.adaptive.candidates import Candidates
from flops_fit.adaptive.criterion import DRIFT, Criterion
from flops_fit.fit.fitting import quick_fit
from flops_fit.fit.intervals import Evidence
from flops_fit.fit.window import WindowRule
from flops_fit.flops.functions import FlopsFunction
from flops_fit.table.run_table import RunTable
from flops_fit.text import format_percent

_CHECKED_RUNS = 3
_MOST_RMS = 2.0  # the rms of three normal errors exceeds this once in 130

_TEST_DRIFT = 0.1  # per e-fold: the prior of a drift where it is tested
_MOST_RESIDUAL = 2.5  # standard deviations that a residual counts for in the test
_NORMAL_90 = 1.645
_DOUBT_P = 0.01
_SLOW_DRIFT = 0.01  # per e-fold: what real tables leave open at the least


@dataclass(frozen=True)
class Check:
    """The three most expensive runs, compared with the predictions made before they ran.

    Attributes
    ----------
    flops
        Of each run.
    errors
        ln(L/predicted) of each.
    scaled
        The same in standard deviations, of the run's noise and the prediction together.
    """

    flops: tuple[float, ...]
    errors: tuple[float, ...]
    scaled: tuple[float, ...]

    @property
    def passed(self) -> bool:
        """Whether noise explains the errors."""
        return float(np.sqrt(np.mean(np.square(self.scaled)))) < _MOST_RMS

    def __str__(self) -> str:
        errors = ", ".join(f"{100 * e:+.2g} %" for e in self.errors)
        verdict = (
            "as expected from noise" if self.passed else "more than noise: the form may be wrong"
        )
        return (
            f"check: {len(self.errors)} runs of up to {max(self.flops):.2g} FLOPs differ from their "
            f"predictions by {errors}: {verdict}"
        )


def check_predictions(
    losses: Sequence[float], predicted: Sequence[tuple[float, float]], runs: Sequence[Candidates]
) -> Check | None:
    """The check on the three most expensive runs with a prediction; ``None`` if there are fewer.

    Parameters
    ----------
    predicted
        (ln L, standard deviation) of each run, NaN for a run without a prediction.
    """
    C = np.concatenate([c.flops for c in runs])
    level, sd = np.array(predicted).T
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.log(np.asarray(losses)) - level
    known = np.flatnonzero(np.isfinite(error))
    if len(known) < _CHECKED_RUNS:
        return None
    top = known[np.argsort(-C[known], kind="stable")[:_CHECKED_RUNS]]
    return Check(
        tuple(C[top].tolist()), tuple(error[top].tolist()), tuple((error[top] / sd[top]).tolist())
    )


@dataclass(frozen=True)
class Form:
    """A test for exponents that drift: those of the law are constant over all sizes and all data.

    Attributes
    ----------
    drifts
        By how much the exponents of N and of D change for each e-fold, estimated from the runs.
    errors
        Their standard deviations.
    p_value
        Of an F test that both are zero.
    shift
        ln N* at the target with these drifts, less that without.
    allowance
        Error of ln N* at the target from drifts of .01 an e-fold, root mean square.
    """

    drifts: tuple[float, float]
    errors: tuple[float, float]
    p_value: float
    shift: float
    allowance: float

    @property
    def doubtful(self) -> bool:
        """Whether the runs contradict the form."""
        return self.p_value < _DOUBT_P

    @property
    def window(self) -> WindowRule:
        """All runs alike, or the window that :func:`flops_fit.fit_runs` has by default."""
        return "auto" if self.doubtful else None

    @property
    def drift(self) -> float:
        """τ for runs to come: that of any law, or the estimated drifts if the form is doubtful."""
        return float(np.sqrt(np.mean(np.square(self.drifts)))) if self.doubtful else DRIFT

    def widened(self, best: float, interval: tuple[float, float]) -> tuple[float, float]:
        """A 90 % interval around ``best``, widened by the allowance as by one standard deviation."""
        more = _NORMAL_90 * self.allowance
        low, high = (float(np.hypot(np.log(edge / best), more)) for edge in interval)
        return best * float(np.exp(-low)), best * float(np.exp(high))

    def __str__(self) -> str:
        a, b = self.drifts
        if self.doubtful:
            return (
                f"form: doubtful (p = {self.p_value:.1g}): the exponents change by {a:+.2g} and {b:+.2g} "
                f"for each e-fold of N and D, which would move N* by {100 * np.expm1(self.shift):+.2g} %"
            )
        return (
            f"form: no sign against it (p = {self.p_value:.2g}), but exponents that change by "
            f"{_SLOW_DRIFT:g} an e-fold would move N* by {format_percent(np.expm1(self.allowance))}, "
            f"and these runs detect only changes beyond {2 * min(self.errors):.2g}"
        )


def form_of(criterion: Criterion) -> Form:
    """A score test for drifts, in the coordinates of the criterion.

    One Gauss–Newton step from the fitted law towards the law with drifts; a residual counts for
    two and a half standard deviations at most.
    """
    from scipy.special import fdtrc

    solution, runs = criterion.evidence.solution, criterion.evidence.runs
    kept = solution.weights > 0
    sd = criterion.sd(criterion.distance(runs.params, runs.flops))
    rows = (criterion.gradients(solution.points) / sd[:, None])[kept]
    loose = criterion.information.copy()
    loose[[6, 7], [6, 7]] += _TEST_DRIFT**-2 - criterion.drift**-2
    residuals = np.clip(solution.residuals / sd, -_MOST_RESIDUAL, _MOST_RESIDUAL)[kept]
    step = np.linalg.solve(loose, rows.T @ residuals)
    covariance = np.linalg.inv(loose)[6:, 6:]
    drifts = step[6:]
    gain = float(drifts @ np.linalg.solve(covariance, drifts))
    dof = max(criterion.dof - 2, 1)
    # The noise so far is of the law without drifts, and includes what they would explain.
    F = gain / 2 * dof / max(criterion.dof - gain, 1.0)
    return Form(
        (float(drifts[0]), float(drifts[1])),
        (float(np.sqrt(covariance[0, 0])), float(np.sqrt(covariance[1, 1]))),
        float(fdtrc(2, dof, F)),
        float(criterion.direction @ step),
        float(_SLOW_DRIFT * np.sqrt(np.sum(criterion.bias**2))),
    )


def fit_and_form(runs: RunTable, flops: FlopsFunction, target: float) -> tuple[Evidence, Form]:
    """The fit that a sweep uses, and whether its runs contradict the law's form.

    The runs lie where they tell most if the form is right, far from N* and at little compute: then
    each counts alike. If they contradict it, those near N* and of most compute count more, by the
    window of :func:`flops_fit.fit_runs`.
    """
    evidence = quick_fit(runs, flops)
    form = form_of(Criterion.of_fit(evidence, target))
    return (quick_fit(runs, flops, form.window) if form.doubtful else evidence), form
