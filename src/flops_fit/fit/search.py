"""Which form of law predicts runs best: each is fitted without the largest budgets and judged on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flops_fit.errors import FitError, FlopsFitError, InputError
from flops_fit.fit.minima import parabola
from flops_fit.fit.misfit_mean import check_known
from flops_fit.fit.surface import points_of
from flops_fit.fit.varied import varied
from flops_fit.fit.window import FitProblem, WindowRule
from flops_fit.flops.functions import Floats
from flops_fit.laws import LAWS
from flops_fit.laws.law import Law
from flops_fit.records import finite_json
from flops_fit.table.run_table import RunTable
from flops_fit.text import markdown_table

_CUTS = (
    3  # the largest budget, the two largest, the three largest; three others remain where there are
)
_NEAR = 4.0  # sizes around the best run of a budget whose losses are judged
_FEWEST_BUDGETS = 3
_GAIN = 0.5  # of the error, by which a form has to beat the default: less is often chance


@dataclass(frozen=True)
class TriedForm:
    """A form of law on budgets held out, each time with all that are larger.

    ``loss_error`` is the root mean square of ln(loss/predicted) over their runs near the best size,
    ``size_error`` that of ln(N*/predicted) over budgets with a vertex, ``None`` without any. Both are NaN
    where the form cannot be fitted; ``reason`` says why.
    """

    law: str
    loss_error: float
    size_error: float | None
    reason: str = ""


@dataclass(frozen=True)
class LawSearch:
    """What :func:`fit_runs` with ``law="search"`` has tried, the best first; prints as a table.

    ``chosen`` is ``"auto"``, the default, unless another form halves its loss error: on public sweeps
    smaller gains below did not last above.
    """

    forms: tuple[TriedForm, ...]
    chosen: str
    budgets: int

    def better_by(self, gain: float) -> str:
        """The best form, where its loss error is below the default's by this share, else ``"auto"``."""
        best, default = self.forms[0], next(t for t in self.forms if t.law == "auto")
        better = default.reason or best.loss_error < (1 - gain) * default.loss_error
        return best.law if better else default.law

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"chosen": self.chosen, "budgets": self.budgets, "forms": finite_json(self.forms)}

    def __str__(self) -> str:
        rows = [["Law", "Loss, error", "N*, error", ""]]
        for form in self.forms:
            size = "–" if form.size_error is None else f"{100 * form.size_error:.2g} %"
            errors = ("–", "–") if form.reason else (f"{100 * form.loss_error:.2g} %", size)
            rows.append([form.law, *errors, "chosen" if form.law == self.chosen else form.reason])
        which = f"{self.budgets} largest budgets" if self.budgets > 1 else "largest budget"
        held = f"Judged on the {which}, each time without it and all larger ones."
        return f"{markdown_table(rows)}\n{held}"


def search_forms(problem: FitProblem, window: WindowRule) -> LawSearch:
    """Every form that the table has the columns for; FitError where too few budgets are left to judge on."""
    table = problem.table
    budgets = np.unique(table.budget)
    cuts = budgets[-max(1, min(_CUTS, len(budgets) - _FEWEST_BUDGETS)) :]
    if len(budgets) < _FEWEST_BUDGETS:
        raise FitError(
            f"law='search': expected {_FEWEST_BUDGETS} budgets or more, to judge forms on the largest; the "
            f"runs have {len(budgets)}. Add budgets, or name a law."
        )
    # The default is what is fitted if no other form wins; the others have to have the constants known.
    forms: dict[str, type[Law] | None] = {"auto": problem.law}
    for name, form in LAWS.items():
        with suppress(InputError):
            check_known(problem.known.fixed, problem.known.prior, form)
            forms |= {name: form} if _has_columns(table, form) else {}
    tried = [_tried(name, replace(problem, law=form), cuts, window) for name, form in forms.items()]
    tried.sort(key=lambda t: np.inf if t.reason else t.loss_error)
    found = LawSearch(tuple(tried), "auto", len(cuts))
    return replace(found, chosen=found.better_by(_GAIN))


def _has_columns(table: RunTable, form: type[Law]) -> bool:
    if "batch_units" in form.covariates and "batch_units" not in varied(table):
        return False  # or losses are as of the best batch already
    columns = table.covariates(form.covariates)
    return len(columns) == len(form.covariates) and all(bool(np.all(c > 0)) for c in columns)


def _tried(name: str, problem: FitProblem, cuts: Floats, window: WindowRule) -> TriedForm:
    losses, sizes = [], []
    try:
        for cut in cuts:
            for loss, size in _errors(problem, cut, window):
                losses.append(loss)
                sizes += [] if size is None else [size]
    except FlopsFitError as error:
        return TriedForm(name, np.nan, None, str(error).split(". ")[0])
    size = float(np.sqrt(np.mean(np.square(sizes)))) if sizes else None
    return TriedForm(name, float(np.sqrt(np.mean(np.concatenate(losses) ** 2))), size)


def _errors(
    problem: FitProblem, cut: float, window: WindowRule
) -> Iterator[tuple[Floats, float | None]]:
    """Of the budgets from ``cut`` on, by a fit to those below it."""
    table, below = problem.table, problem.table.budget < cut
    left = table.select(below)
    known = replace(
        problem, table=left, base=problem.base[below], points=points_of(left, problem.points.log)
    )
    law = known.windowed(window)[0].chosen.law
    for budget in np.unique(table.budget[~below]):
        runs = table.select(table.budget == budget)
        away = np.abs(np.log(runs.params / runs.params[np.argmin(runs.loss)]))
        near = runs.select(away <= np.log(_NEAR))
        columns = near.params, near.tokens, *near.covariates(law.covariates)
        error = np.log(near.loss / np.asarray(law.loss(*columns)))
        vertex, size = parabola(near, _NEAR), None
        if vertex is not None and vertex.interior and not law.covariates:
            best = float(law.optimal(float(np.mean(runs.flops)), problem.flops).params)
            size = float(np.log(vertex.params / best))
        yield error, size
