"""Several groups of runs under one law: some constants shared, the others each group's own.

The shared constants are where Σ over groups of Σ w·ρ_δ/v is least, v the noise of a group. For its
drawn surfaces each group takes what the others say of the shared constants as their prior.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flops_fit.errors import InputError, TableError, check_choice, columns_there
from flops_fit.fit.intervals import Evidence
from flops_fit.fit.misfit_mean import CONSTANTS, Belief, Known
from flops_fit.fit.solver import Solution, finding
from flops_fit.fit.surface_solver import rho_scale
from flops_fit.flops.functions import Floats
from flops_fit.laws.kappa import Hoffmann, Kappa
from flops_fit.laws.law import Law
from flops_fit.records import Diagnostic, Severity, finite_json
from flops_fit.table.cells import is_missing
from flops_fit.table.run_table import RunTable
from flops_fit.text import card, markdown_table

if TYPE_CHECKING:
    from flops_fit.fit.fit import Fit
    from flops_fit.fit.prediction import Prediction


LEVEL = 0.05  # of the test
_STEP = 0.05  # of the logs of shared constants: the unit of their search
_GROWS = 0.7  # rank correlation
_SPLIT_SHARE, _SPLIT_LEVEL = 0.25, 1e-3  # of the scatter between groups; of its F-test
_LEAST_SCALE = 1e-8  # of losses without noise: 1e-4 of a loss
EXPONENTS = ("alpha", "beta", "kappa")


@dataclass(frozen=True)
class Sharing:
    """Shared constants, the law of each group with them, and the p value of their being equal."""

    values: dict[str, float]
    laws: tuple[Law, ...]
    p_value: float | None

    def diagnostic(self, who: str) -> Diagnostic:
        """What the test says."""
        shown = ", ".join(f"{name} = {value:.4g}" for name, value in self.values.items())
        p = "not tested" if self.p_value is None else f"p = {self.p_value:.2g} for equal ones"
        differ = self.p_value is not None and self.p_value < LEVEL
        severity: Severity = "warning" if differ else "ok"
        return finding("shared_constants", severity, who=who, shown=shown, p=p)


def share_constants(solutions: Sequence[Solution], names: Sequence[str]) -> Sharing:
    """The best common values of constants of solutions of one form, and the τ-test of them."""
    from scipy.optimize import minimize
    from scipy.special import fdtrc

    scales = [max(rho_scale(s), _LEAST_SCALE) for s in solutions]
    own = np.array([[s.law.params[name] for name in names] for s in solutions])
    start = np.mean(np.log(np.maximum(own, 1e-3)), axis=0)

    def held(x: Floats) -> tuple[dict[str, float], list[Solution]]:
        values = dict(zip(names, np.exp(start + _STEP * (x - 1)).tolist(), strict=True))
        return values, [s.solver.holding(values).fit(s.weights, s.delta, s) for s in solutions]

    def rise(x: Floats) -> float:
        pairs = zip(held(x)[1], solutions, scales, strict=True)
        return sum(2 * (h.objective - s.objective) / scale for h, s, scale in pairs)

    steps = {"gtol": 1e-2, "finite_diff_rel_step": 1e-3, "maxiter": 15}
    end = minimize(rise, np.ones(len(names)), method="BFGS", jac="3-point", options=steps)
    values, common = held(end.x)
    laws = tuple(s.law for s in common)
    more, left = (len(solutions) - 1) * len(names), sum(s.dof for s in solutions)
    if left < 1 or any(s.dof < 1 or not s.converged or s.optimum_lost for s in solutions):
        return Sharing(values, laws, None)
    return Sharing(values, laws, float(fdtrc(more, left, max(float(end.fun), 0.0) / more)))


def beliefs(evidences: Sequence[Evidence], names: Sequence[str]) -> list[Belief | None]:
    """For each group what the surfaces of the others say of shared constants."""
    said = {}
    for g, evidence in enumerate(evidences):
        if not evidence.no_interval:
            R, shift = evidence.posterior.mean.log_constants(tuple(names))
            logs = np.vstack([part.eta for part in evidence.posterior.parts]) @ R.T + shift
            said[g] = np.mean(logs, axis=0), np.linalg.inv(np.atleast_2d(np.cov(logs.T)))
    out: list[Belief | None] = []
    for g in range(len(evidences)):
        others = [s for h, s in said.items() if h != g]
        if not others:
            out.append(None)
            continue
        precision = np.sum([P for _, P in others], axis=0)
        mean = np.linalg.solve(precision, np.sum([P @ m for m, P in others], axis=0))
        out.append(Belief(tuple(names), mean, precision))
    return out


@dataclass(frozen=True, eq=False, repr=False)
class GroupFit:
    """One law fitted to several groups of runs: ``fit["c4"]`` is the :class:`Fit` of one of them.

    Made by ``fit_runs(runs, group=...)``. Each fit has the ``shared`` constants in its law, and its
    answers and intervals know what the runs of all groups say of them. ``p_value`` is of their being
    equal: a robust τ-test (F under normal noise) against separate fits; ``None`` where one of these
    has no optimum. ``diagnostics`` say it in words.
    """

    fits: dict[str, Fit]
    shared: dict[str, float]
    p_value: float | None
    diagnostics: tuple[Diagnostic, ...]

    def __getitem__(self, group: str) -> Fit:
        check_choice("group", group, self.fits)
        return self.fits[group]

    def __iter__(self) -> Iterator[str]:
        return iter(self.fits)

    def __len__(self) -> int:
        return len(self.fits)

    def predict(self, group: str, C: float, level: float = 0.9, **caps: float) -> Prediction:
        """What :meth:`Fit.predict` of a group answers."""
        return self[group].predict(C, level, **caps)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        own = {name: value for name, value in vars(self).items() if name != "fits"}
        return dict(finite_json({**own, "groups": self.fits}))

    def _rows(self) -> list[list[str]]:
        own = [k for k in next(iter(self.fits.values())).law.params if k not in self.shared]
        rows = [
            [name, str(len(fit.runs)), *(f"{fit.law.params[k]:.4g}" for k in own), fit.trust]
            for name, fit in self.fits.items()
        ]
        return [["group", "runs", *own, "trust"], *rows]

    def __repr__(self) -> str:
        return "\n".join([*map(str, self.diagnostics), markdown_table(self._rows())])

    def _repr_html_(self) -> str:
        return card("One law, several groups", self._rows(), map(str, self.diagnostics))


def group_labels(runs: RunTable, group: str | ArrayLike) -> NDArray[np.str_]:
    """The group of each run, from the heading of a column of text or one label a run."""
    if isinstance(group, str):
        if group not in runs.texts:
            raise TableError(
                f"group={group!r}: expected a column of text, or of very few numbers, that splits "
                f"the runs; {columns_there(group, runs.texts)} Give one label a run as an array instead."
            )
        group = list(runs.texts[group])
    given = np.ravel(np.asarray(group, dtype=object))
    labels = np.array(["" if is_missing(label) else str(label) for label in given])
    if len(labels) != len(runs):
        raise InputError(
            f"group=: expected one label for each of the {len(runs)} usable runs; got {len(labels)}."
        )
    if len(set(labels) - {""}) < 2:
        raise InputError(f"group=: expected two groups or more; got {sorted(set(labels))}.")
    return labels


def shared_names(share: Sequence[str] | None, form: type[Law], known: Known) -> tuple[str, ...]:
    """The constants to share, by default all exponents of the κ family."""
    may = form.parameters()
    names = tuple(n for n in EXPONENTS if n in may) if share is None else tuple(share)
    if form in (Hoffmann, Kappa):
        may = tuple(n for n in CONSTANTS if n in may)
    if isinstance(share, str) or not names or not set(names) <= set(may):
        got = f"got {share!r}" if share is not None else f"the {form.name} law has no usual ones"
        raise InputError(f"share=: expected some of {list(may)}; {got}.")
    names = tuple(dict.fromkeys(names))
    if both := set(names) & {*known.fixed, *known.prior}:
        raise InputError(f"share=: expected constants not in fixed= or prior=; got {sorted(both)}.")
    return names


def split_finding(solution: Solution, runs: RunTable) -> list[Diagnostic]:
    """Columns that split the runs: the one of the most different losses, and those that follow C."""
    from scipy.special import fdtrc
    from scipy.stats import spearmanr

    worst: tuple[float, str] = (_SPLIT_SHARE, "")
    follows: list[str] = []
    z = solution.residuals - np.mean(solution.residuals)
    total, most = float(np.sum(z**2)), solution.parameters
    budgets = len(np.unique(runs.budget))
    for name, cells in runs.texts.items():
        values, which = np.unique(np.array(cells), return_inverse=True)
        count = np.bincount(which)
        if len(count) < 2:
            continue
        ends = sorted(
            (runs.budget[which == g].min(), runs.budget[which == g].max()) for g in set(which)
        )
        apart = all(low > high for (_, high), (low, _) in pairwise(ends))
        try:
            # A number that grows with N, D or C, such as a depth, is what the law explains.
            number = values.astype(float)[which]
            scale = (runs.params, runs.tokens, runs.flops)
            if max(abs(spearmanr(number, c).statistic) for c in scale) > _GROWS:
                continue
        except ValueError:
            if 1 < len(values) <= budgets / 2 and apart:
                follows.append(name)
        sizes = [len(np.unique(runs.params[which == g])) for g in range(len(count))]
        if "" in cells or min(count) <= most or min(sizes) < 3 or total == 0:
            continue
        between = float(np.sum(np.bincount(which, z) ** 2 / count))
        left = len(z) - most - len(count) + 1
        F = between / (len(count) - 1) / max((total - between) / left, 1e-300)
        if fdtrc(len(count) - 1, left, F) < _SPLIT_LEVEL:
            worst = max(worst, (between / total, name))
    share, name = worst
    out = [finding("groups_follow", name=name) for name in follows]
    return [*out, *([finding("groups_mixed", name=name, percent=100 * share)] if name else [])]
