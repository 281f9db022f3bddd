"""The answer at one compute budget with its intervals, and what a budget held out says of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flops_fit.errors import InputError, is_number
from flops_fit.files import Rows
from flops_fit.fit.checks import off_the_runs
from flops_fit.fit.intervals import METHOD, Evidence, Interval, check_level
from flops_fit.fit.minima import parabola
from flops_fit.fit.solver import finding
from flops_fit.flops.functions import Floats, FlopsFunction
from flops_fit.laws.law import Law
from flops_fit.laws.optimum import Optimum, PowerLaw, spend
from flops_fit.records import Diagnostic, finite_json
from flops_fit.table.run_table import RunTable
from flops_fit.text import card, format_count, shown_count

_WINDOW = 5.0  # of the parabola through a budget that was held out
_PATH = 13  # budgets of a path that are answered one by one
QUANTITIES = ("optimal_params", "optimal_tokens", "expected_loss", "tokens_per_param")
SPANS = (*QUANTITIES, "run_loss")


@dataclass(frozen=True)
class Prediction(Mapping[str, Any]):
    """The compute-optimal run at one budget; also a mapping of its own attributes.

    ``target_compute`` is C in FLOPs, ``training_compute`` F(N*)·D*: C itself, and less only where both
    caps bind. ``binds`` has the caps that bind: ``"max_params"``, ``"max_tokens"``, both or none. The
    answer is N*, D* in ``unit``, L(N*, D*) and D*/N*; the loss is NaN where approach 1 or 2 answers and
    its minima determine none.

    ``intervals`` has for each of these four (low, high) at ``level``, or ``None`` where no reliable
    interval exists; a diagnostic then says why. That of ``expected_loss`` is of the mean over many runs
    of this size; ``run_loss`` has that of one. They hold noise, the choice of form and the form's misfit.
    What a cap fixes has its one value as both ends. ``interval_method`` is ``"law, misfit and noise"`` or
    ``"none"``. ``form_spread`` is for each of the four the range over the fitted law forms, on top of the
    interval; ``extrapolation`` is ``training_compute`` over the largest run's compute.
    """

    target_compute: float
    training_compute: float
    binds: tuple[str, ...]
    optimal_params: float
    optimal_tokens: float
    expected_loss: float
    tokens_per_param: float
    intervals: dict[str, Interval | None]
    level: float
    unit: str
    extrapolation: float
    form_spread: dict[str, Interval]
    interval_method: str
    diagnostics: tuple[Diagnostic, ...]

    def __getitem__(self, key: str) -> Any:
        return vars(self)[key]

    def __iter__(self) -> Iterator[str]:
        return iter(vars(self))

    def __len__(self) -> int:
        return len(vars(self))

    def _title(self) -> str:
        far = f"{self.extrapolation:.3g} times the largest run"
        return f"With {self.target_compute:.3g} training FLOPs, {far}"

    def _rows(self) -> list[list[str]]:
        rows = [["", "value", f"{100 * self.level:g} % interval"]]
        for name, quantity, show in (
            ("N*, parameters", "optimal_params", shown_count),
            (f"D*, {self.unit}", "optimal_tokens", shown_count),
            ("D/N", "tokens_per_param", shown_count),
            ("loss, mean of runs", "expected_loss", lambda v: "–" if v != v else f"{v:#.4g}"),
            ("loss, one run", "run_loss", lambda v: "–" if v != v else f"{v:#.4g}"),
        ):
            span = self.intervals[quantity]
            interval = f"{show(span[0])}–{show(span[1])}" if span else "none"
            value = self.expected_loss if quantity == "run_loss" else self[quantity]
            rows.append([name, show(value), interval])
        return rows

    def __repr__(self) -> str:
        said = "; ".join(f"{name} {value} ({span})" for name, value, span in self._rows()[1:])
        return f"<Prediction at {self.target_compute:.3g} FLOPs: {said}>"

    def __str__(self) -> str:
        lines = [f"{name:<19} {value:<7} {span}" for name, value, span in self._rows()]
        return "\n".join([self._title(), *lines, *serious(self.diagnostics)])

    def _repr_html_(self) -> str:
        return card(self._title(), self._rows(), serious(self.diagnostics))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; ``None`` where a number is not known."""
        return dict(finite_json(vars(self)))


class Predictions(tuple[Prediction, ...], Rows):
    """The predictions at several budgets."""

    __slots__ = ()

    def to_dicts(self) -> list[dict[str, Any]]:
        """One flat row a budget: each quantity, and the ends of its interval as _low and _high."""
        rows = []
        for p in self:
            row: dict[str, Any] = {"compute": p.target_compute}
            for name, span in p.intervals.items():
                if name != "run_loss":
                    row[name] = p[name]
                row[f"{name}_low"], row[f"{name}_high"] = span or (None, None)
            rows.append({**row, "level": p.level, "extrapolation": p.extrapolation})
        return rows

    def __str__(self) -> str:
        return "\n\n".join(map(str, self))


def serious(diagnostics: Sequence[Diagnostic]) -> list[str]:
    """The warnings and critical findings in words."""
    return [str(d) for d in diagnostics if d.severity in ("warning", "critical")]


@dataclass(frozen=True)
class Budget:
    """What may be spent: C FLOPs under F(N), with caps on N and D."""

    C: float
    flops: FlopsFunction
    max_params: float | None = None
    max_tokens: float | None = None

    def optimum(self, law: Law) -> Optimum:
        """The best N and D of a law."""
        caps = {"max_params": self.max_params, "max_tokens": self.max_tokens}
        return law.optimal(self.C, self.flops, **caps)

    def within(self, name: str, value: float, span: Interval | None) -> Interval | None:
        """An interval cut at the cap that its quantity cannot pass; its value where a cap fixes it."""
        if span is None:
            return None
        if span[1] - span[0] <= 1e-9 * abs(span[0]):  # no width but that of rounding
            return value, value
        caps = {"optimal_params": self.max_params, "optimal_tokens": self.max_tokens}
        cap = caps.get(name)
        return span if cap is None else (min(span[0], float(cap)), min(span[1], float(cap)))


def predict(
    evidence: Evidence,
    budget: Budget,
    level: float,
    others: Sequence[Law],
    line: PowerLaw | None = None,
) -> Prediction:
    """The answer, with the spread over the ``others``, other forms, and approach 2's ``line``."""
    law, lost = evidence.law, evidence.no_interval
    caps = (budget.max_params, budget.max_tokens)
    best, spans = median_optimum(evidence, budget, level)
    unsure = [name for name, span in spans.items() if span is None]
    notes = []
    if lost:
        notes.append(finding("no_interval", reason=lost))
    elif unsure:
        reason = f"the runs do not determine {', '.join(unsure)}"
        notes.append(finding("no_interval", "warning", reason=reason))
    forms = [_values(best), *(_values(budget.optimum(each)) for each in (law, *others))]
    if line is not None:
        forms.append(_values(spend(line(budget.C), budget.C, budget.flops, *caps, law)))
    spread = np.array(forms)
    ranges = zip(spread.min(axis=0).tolist(), spread.max(axis=0).tolist(), strict=True)
    if best.binds:
        notes.append(_cap_note(law, budget, best))
    answer = prediction(evidence, budget, best, level, notes)
    how, by_form = "none" if lost else METHOD, dict(zip(QUANTITIES, ranges, strict=True))
    return replace(answer, intervals=spans, form_spread=by_form, interval_method=how)


def prediction(
    evidence: Evidence, budget: Budget, best: Optimum, level: float, notes: Sequence[Diagnostic]
) -> Prediction:
    """An answer without intervals, and how far it lies from the runs."""
    far = off_the_runs(evidence, best.params, best.tokens, shape=bool(best.binds))
    return Prediction(
        target_compute=budget.C,
        training_compute=best.compute,
        binds=best.binds,
        **dict(zip(QUANTITIES, _values(best), strict=True)),
        intervals=dict.fromkeys(SPANS),
        level=level,
        unit=evidence.runs.unit,
        extrapolation=best.compute / float(np.max(evidence.runs.flops)),
        form_spread={},
        interval_method="none",
        diagnostics=(*notes, *far),
    )


def median_optimum(
    evidence: Evidence, budget: Budget, level: float
) -> tuple[Optimum, dict[str, Interval | None]]:
    """The median optimum over the drawn surfaces, and the interval of each of :data:`SPANS`."""
    of_law = budget.optimum(evidence.law)
    if evidence.no_interval:
        return of_law, dict.fromkeys(SPANS)
    caps = (budget.max_params, budget.max_tokens)
    drawn = evidence.optima(budget.C, budget.flops, *caps)
    size = float(np.median(drawn.free))
    size = size if np.isfinite(size) else float(of_law.params)
    best = replace(spend(size, budget.C, budget.flops, *caps), loss=float(np.median(drawn.loss)))
    ratio = np.where(np.isfinite(drawn.params), drawn.tokens / drawn.params, np.nan)
    draws = (drawn.params, drawn.tokens, drawn.loss, ratio, drawn.run_loss)
    middles = (*_values(best), best.loss)
    return best, {
        name: budget.within(name, middle, evidence.span(values, level))
        for name, middle, values in zip(SPANS, middles, draws, strict=True)
    }


def predict_path(
    evidence: Evidence, compute: Floats, level: float, flops: FlopsFunction | None = None
) -> Floats:
    """As :func:`predict` at many budgets: (:data:`SPANS`, value and two ends, budgets); NaN: none.

    Between some of many budgets logs (of what may be negative: values) are a cubic in ln C.
    """
    from scipy.interpolate import PchipInterpolator

    at = np.unique(compute)
    nodes = at if len(at) <= _PATH else np.geomspace(at[0], at[-1], _PATH)
    rows = []
    for C in nodes.tolist():
        best, spans = median_optimum(evidence, Budget(C, flops or evidence.flops), level)
        values = (*_values(best), best.loss)
        rows.append(
            [(v, *(spans[n] or (np.nan, np.nan))) for n, v in zip(SPANS, values, strict=True)]
        )
    logs = np.array(rows).reshape(len(nodes), -1)
    plain = np.any(logs <= 0, axis=0)
    logs[:, ~plain] = np.log(logs[:, ~plain])
    if len(nodes) == len(at):
        between = logs[np.searchsorted(at, compute)]
    else:
        known = np.isfinite(logs).all(axis=0)
        between = np.full((len(compute), logs.shape[1]), np.nan)
        between[:, known] = PchipInterpolator(np.log(nodes), logs[:, known])(np.log(compute))
    between[:, ~plain] = np.exp(between[:, ~plain])
    return np.asarray(between.T.reshape(len(SPANS), 3, len(compute)))


def _values(best: Optimum) -> tuple[float, float, float, float]:
    return best.params, best.tokens, best.loss, best.tokens / best.params


def _cap_note(law: Law, budget: Budget, best: Optimum) -> Diagnostic:
    free = law.optimal(budget.C, budget.flops)
    caps, left = f"{best.binds[0]} binds", ""
    if len(best.binds) > 1:
        caps = f"{' and '.join(best.binds)} bind"
        left = f"; {100 * (1 - best.compute / budget.C):.2g} % of the compute is left over"
    sizes = {"N": format_count(free.params), "D": format_count(free.tokens), "loss": free.loss}
    percent = 100 * (best.loss - free.loss) / abs(free.loss)
    return finding("cap_binds", caps=caps, **sizes, percent=percent, left=left)


def check_target(C: object, level: float) -> float:
    """A target as a float; InputError where it is no compute, or the level no probability."""
    if not is_number(C) or not float(C) > 0:
        raise InputError(f"expected a compute budget in FLOPs, one positive number; got {C!r}.")
    check_level(level)
    return float(C)


@dataclass(frozen=True)
class HeldOut:
    """One budget that was held out: what was predicted for it and what was measured.

    ``predicted_params`` and ``predicted_loss`` are N* and L from the smaller budgets at ``compute``,
    the mean C of the runs, with confidence intervals of N* and of the law's own loss; the prediction
    ``run_interval`` for the loss of one run at N* has the law's uncertainty and the run's noise in
    quadrature. ``vertex_params`` and ``vertex_loss`` are of the parabola through the budget's runs
    within ×5 of it, ``regret`` is by how much, relative to its minimum, the loss at the predicted N
    exceeds it; ``None`` where the minimum is not inside the sampled sizes. ``best_...`` is the run
    with the lowest loss, low by luck as well. ``params_inside`` says whether the vertex's N lies in
    ``params_interval``, ``loss_inside`` whether its loss (without a vertex: the lowest run's) lies in
    ``run_interval``; ``None`` where one of the two is missing.
    """

    compute: float
    runs: int
    predicted_params: float
    predicted_loss: float
    params_interval: Interval | None
    loss_interval: Interval | None
    run_interval: Interval | None
    vertex_params: float | None
    vertex_loss: float | None
    regret: float | None
    best_label: str
    best_params: float
    best_loss: float
    params_inside: bool | None
    loss_inside: bool | None


def judge(
    part: RunTable, params: float, loss: float, spans: Sequence[Interval | None] = (None,) * 3
) -> HeldOut:
    """A predicted N* and loss for a budget, with intervals of N*, loss and one run, beside its runs."""
    params_interval, loss_interval, run_interval = spans
    measured = parabola(part, _WINDOW)
    vertex = measured if measured is not None and measured.interior else None
    best = int(np.argmin(part.loss))
    lowest = vertex.loss if vertex else float(part.loss[best])
    return HeldOut(
        compute=float(np.mean(part.flops)),
        runs=len(part),
        predicted_params=params,
        predicted_loss=loss,
        params_interval=params_interval,
        loss_interval=loss_interval,
        run_interval=run_interval,
        vertex_params=vertex.params if vertex else None,
        vertex_loss=vertex.loss if vertex else None,
        regret=vertex.regret(params) if vertex else None,
        best_label=part.labels[best],
        best_params=float(part.params[best]),
        best_loss=float(part.loss[best]),
        params_inside=_inside(vertex.params, params_interval) if vertex else None,
        loss_inside=_inside(lowest, run_interval),
    )


def _inside(value: float, interval: Interval | None) -> bool | None:
    return None if interval is None else bool(interval[0] <= value <= interval[1])
