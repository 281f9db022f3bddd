"""Runs on repeated data: which of them the law of repeated data can express, and what it learned.

The law of Muennighoff et al. 2023 falls with every repeat. Runs whose loss rises with repetition
pull it towards constants that describe neither side, so it is fitted where repetition still helps.
"""

from collections.abc import Iterator

import numpy as np

from flops_fit.fit.generic import least_value
from flops_fit.fit.intervals import covariance, student_t
from flops_fit.fit.solver import Solution, finding
from flops_fit.flops.functions import Bools, Floats, FlopsFunction, Indices
from flops_fit.laws.kappa import Repeating
from flops_fit.laws.overfit import Overfit
from flops_fit.records import Diagnostic
from flops_fit.table.run_table import RunTable
from flops_fit.text import format_count, listed

FEW_EPOCHS = 4.0  # up to which repeats are nearly as good as new (Muennighoff et al. 2023, §6)
_WASTED = 1.1  # times the compute that a supply of data can use
_USUAL_NOISE = 0.004  # relative, of the loss of one run; public sets show .2 to .8 %
_MOST_SD = 3.0  # sd of one run above the lowest loss: 2.1 sd of the difference between two
_MORE_EXPERTS = "add models of like N_active with more experts and fewer"
_ADVICE = {"R_D": "add runs with more repeats", "q": _MORE_EXPERTS, "r": _MORE_EXPERTS}
_WIDEST = np.log(10.0)  # half an interval, in logs, of a value that counts as determined


def epochs_of(runs: RunTable) -> Floats:
    """D/U of each run; 1 where U is not known."""
    if runs.unique_tokens is None:
        return np.ones(len(runs))
    return np.nan_to_num(runs.tokens / runs.unique_tokens, nan=1.0)


def run_noise(runs: RunTable) -> float:
    """The relative noise of a run: the median sd of three or more groups of equal N, D and U."""
    losses = [np.log(runs.loss[same]) for same in _same(runs, *runs.setting()[1:]) if len(same) > 1]
    spreads = [float(np.std(z, ddof=1)) for z in losses]
    return float(np.median(spreads)) if len(spreads) >= 3 else _USUAL_NOISE


def where_repetition_helps(runs: RunTable) -> tuple[RunTable, Bools, list[Diagnostic]]:
    """The runs without those that more repeats made worse, a mask of them, and the findings.

    Worse is three standard deviations above the lowest loss of the same N and U; seeds are averaged.
    """
    if np.min(runs.loss) <= 0:  # which the law itself refuses
        return runs, np.ones(len(runs), bool), []
    limit = np.exp(_MOST_SD * run_noise(runs))
    epochs = epochs_of(runs)
    reasons: dict[int, str] = {}
    groups = []
    for group in _same(runs):
        lengths = np.unique(runs.tokens[group])
        members = [group[runs.tokens[group] == d] for d in lengths]
        mean = np.array([np.exp(np.mean(np.log(runs.loss[m]))) for m in members])
        best = int(np.argmin(mean))
        worse = best + 1 + np.flatnonzero(mean[best + 1 :] > limit * mean[best])
        fewest = f"{epochs[members[best][0]]:.3g}"
        for i in (int(i) for at in worse for i in members[at]):
            reasons[i] = (
                f"its loss is above that of fewer repeats ({runs.loss[i]:.4g} after "
                f"{epochs[i]:.3g} epochs, {mean[best]:.4g} after {fewest})"
            )
        if len(worse):
            unique = runs.unique_tokens
            supply = "" if unique is None else format_count(unique[group[0]])
            size = format_count(runs.params[group[0]])
            groups.append(f"N = {size} on U = {supply} after {fewest} epochs")
    keep = np.array([i not in reasons for i in range(len(runs))])
    if not reasons:
        return runs, keep, []
    hurt = finding("repetition_hurts", count=len(reasons), groups=listed(groups, 6))
    return runs.without(reasons), keep, [hurt]


def repeat_findings(solution: Solution) -> list[Diagnostic]:
    """What the runs say about each constant that may be infinite: a value, a bound, nothing."""
    out = []
    for name in type(solution.law).limits:
        if name in solution.held:
            limit = type(solution.law).limits[name]
            least = least_value(solution, name) if limit == np.inf else None
            known = f"; it is above {least:.2g} at 95 %" if least is not None else ""
            advice = _ADVICE.get(name, "add larger models")
            held = "∞" if limit == np.inf else f"{limit:g}"
            out.append(finding("repeats_held", name=name, held=held, known=known, advice=advice))
        elif name in solution.names:
            out.append(_with_interval(solution, name))
    return out


def determines_repeats(solution: Solution) -> bool:
    """Whether R*_D has a value that is known within a factor of ten each way."""
    codes = {d.code for d in repeat_findings(solution)}
    return solution.status.usable and "R_D_identified" in codes


def scarcity_notes(solution: Solution, C: float, flops: FlopsFunction) -> list[Diagnostic]:
    """Which supply of data an answer at C is for, where the law has one, and whether less would do better."""
    if not isinstance(solution.law, Repeating):
        return []
    if np.isinf(solution.law.unique):
        return [finding("fresh_data")]
    names = ", ".join(solution.held)
    out = [finding("scarcity_unknown", names=names)] if names else []
    if isinstance(law := solution.law, Overfit):
        size, epochs, loss = law.best_size()
        most = float(flops(np.asarray(size))) * law.unique * epochs
        if _WASTED * most < C:
            words = {"size": format_count(size), "unique": format_count(law.unique)}
            out.append(finding("supply_spent", most=most, epochs=epochs, loss=loss, **words))
    return out


def _with_interval(solution: Solution, name: str) -> Diagnostic:
    cov = covariance(solution)
    i = solution.names.index(name)
    value = float(np.exp(solution.theta[i]))
    if cov.matrix is None:
        return finding("repeats_without_interval", name=name, value=value, reason=cov.reason)
    half = min(student_t(0.9, cov.dof) * float(np.sqrt(cov.matrix[i, i])), 300.0)
    span, wider = {"low": value * np.exp(-half), "high": value * np.exp(half)}, ""
    if solution.delta < 0.67 * solution.residual_sd:
        wider = " or wider: δ lies far below the noise, where the sandwich covers too little"
    key = "repeats_hardly" if half > _WIDEST else "repeats_identified"
    return finding(key, name=name, value=value, **span, wider=wider)


def _same(runs: RunTable, *further: Floats) -> Iterator[Indices]:
    """The runs that share N and U (and whatever else is given), group by group."""
    unique = runs.tokens if runs.unique_tokens is None else runs.unique_tokens
    rows = np.column_stack([runs.params, unique, *further])
    _, group = np.unique(rows, axis=0, return_inverse=True)
    for g in range(int(np.max(group, initial=-1)) + 1):
        yield np.flatnonzero(group.ravel() == g)
