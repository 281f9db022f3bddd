"""Mixtures of experts: N_active in place of N, and how sparse a model is best at a budget."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from flops_fit.errors import FitError, TableError, check_number
from flops_fit.files import Rows
from flops_fit.fit.intervals import Estimate, Interval, answer
from flops_fit.fit.prediction import Prediction, serious
from flops_fit.fit.questions import log_compute_draws
from flops_fit.fit.solver import Solution, finding
from flops_fit.flops.functions import Floats
from flops_fit.laws.experts import Experts
from flops_fit.laws.law import Law
from flops_fit.records import Diagnostic
from flops_fit.table.run_table import RunTable
from flops_fit.text import format_count, markdown_table

if TYPE_CHECKING:
    from flops_fit.fit.fit import Fit

_VARIES = 0.1  # sd of ln S around a line in ln N, from which on experts were varied
_FOLLOWS = 0.05  # likewise, up to which S follows from N_active
_BEYOND = 1.1  # times the S of the runs
_ROUNDED = 1.06  # times N_total, up to which N_active is that of a dense model with rounded sizes
_MOST_ROWS, _ALIKE = 4, 1.2  # rows besides the dense one, and what parts them
_NO_GAIN = Estimate(0.0, (0.0, 0.0), 1.0, "none"), Estimate(1.0, (1.0, 1.0), 1.0, "none")


def by_active(table: RunTable) -> RunTable:
    """The table with N_active for N, and N_total/N_active in ``sparsity``; TableError without both."""
    if table.sparsity is not None:
        return table
    if table.active_params is None:
        raise TableError(
            "expected N_total and N_active of each run, in columns that differ; the table has not both. Add "
            "them, or say which they are: columns={'params': 'your_total', 'active_params': 'your_active'}."
        )
    active, total = table.active_params, table.params
    known = np.isfinite(active) & (active > 0)
    sound = known & (active <= _ROUNDED * total)
    if 2 * np.sum(sound) < np.sum(known) or not np.any(known):
        above = np.sum(known & ~sound)
        raise TableError(
            f"expected N_active of at most N_total; got more in {above} of {len(table)} runs, and none in "
            f"{np.sum(~known)}. Are they swapped, or one in millions or billions? Say which is which: "
            "columns={'params': 'your_total', 'active_params': 'your_active'}."
        )
    table = table.select(sound, "N_active is no positive number of at most N_total")
    active = np.minimum(active, total)[sound]
    excluded = tuple(replace(e, params=None) for e in table.excluded)
    S = table.params / active
    return replace(table, params=active, sparsity=S, excluded=excluded, censored=())


def check_experts(table: RunTable) -> RunTable:
    """The table; FitError where N_total/N_active follows from N_active, so that experts and size are one."""
    assert table.sparsity is not None
    if len(table) > 2 and _off_line(table.params, table.sparsity) < _FOLLOWS:
        raise FitError(
            "expected N_total and N_active to vary independently; in these runs one follows from the "
            "other. Add models of the same N_active with more or fewer experts, dense ones first."
        )
    return table


def as_asked(table: RunTable, law: Law) -> RunTable:
    """The losses under the conditions that the law answers for: of dense models, or of fresh data."""
    if not law.covariates:
        return table
    own = law.loss(table.params, table.tokens, *table.covariates(law.covariates))
    return replace(table, loss=table.loss * law.loss(table.params, table.tokens) / own)


def expert_findings(solution: Solution, runs: RunTable) -> list[Diagnostic]:
    """That no run is dense, or that experts vary and the law does not know of them."""
    if not isinstance(solution.law, Experts):
        return [finding("experts_vary", **_range(runs))] if _vary(runs) else []
    low = _range(runs)["low"]
    return [finding("no_dense_runs", low=low)] if low > _BEYOND else []


def expert_notes(solution: Solution, runs: RunTable) -> list[Diagnostic]:
    """For which models an answer is, where the law knows of experts."""
    law = solution.law
    if not isinstance(law, Experts):
        return []
    most = _range(runs)["high"]
    if law.sparsity > _BEYOND * most:
        return [finding("experts_beyond", sparsity=law.sparsity, high=most)]
    return [finding("dense_answer")] if law.sparsity == 1 else []


def _range(runs: RunTable) -> dict[str, float]:
    S = runs.sparsity
    if S is None:
        assert runs.active_params is not None
        S = runs.params / runs.active_params
    return {"low": float(np.nanmin(S)), "high": float(np.nanmax(S))}


def _vary(runs: RunTable) -> bool:
    """Whether experts were varied, and not the size alone."""
    if runs.active_params is None:
        return False
    if runs.experts is not None and not np.any(np.isnan(runs.experts)):
        return len(np.unique(runs.experts)) > 1
    total = runs.params if runs.sparsity is None else runs.params * runs.sparsity
    S = total / runs.active_params
    known = np.isfinite(S)
    return int(known.sum()) > 2 and _off_line(total[known], S[known]) > _VARIES


def _off_line(N: Floats, S: Floats) -> float:
    """The standard deviation of ln S around a line in ln N."""
    x = np.log(N) - np.mean(np.log(N))
    design = np.column_stack([np.ones_like(x), x])
    left = np.log(S) - design @ np.linalg.lstsq(design, np.log(S), rcond=None)[0]
    return float(np.std(left))


@dataclass(frozen=True)
class ExpertsRow:
    """The best model of one sparsity at a budget.

    ``params`` is N_active, ``total_params`` N_total, ``sparsity`` their ratio, ``experts`` how many there are
    for each that a unit visits (``None`` where the runs do not say). ``gain`` is by how much its loss lies
    below that of the best dense model of the same compute, relative; ``compute_ratio`` how many times the
    compute a dense model needs for this loss. Intervals are ``None`` where there is no reliable one.
    """

    sparsity: float
    experts: float | None
    params: float
    total_params: float
    tokens: float
    loss: float
    gain: float
    compute_ratio: float
    params_interval: Interval | None
    loss_interval: Interval | None
    gain_interval: Interval | None
    compute_ratio_interval: Interval | None


@dataclass(frozen=True)
class BestExperts(Rows):
    """How sparse a model is best at ``compute`` training FLOPs, with N_total of at most a cap.

    ``rows`` go from dense to the sparsest that was tried or fits, ``best`` is that of the least loss.
    ``binds`` says whether the cap holds it back. Its text is the answer.
    """

    compute: float
    max_total_params: float | None
    level: float
    unit: str
    rows: tuple[ExpertsRow, ...]
    diagnostics: tuple[Diagnostic, ...]

    @property
    def best(self) -> ExpertsRow:
        """The row of the least loss."""
        return min(self.rows, key=lambda row: row.loss)

    @property
    def binds(self) -> bool:
        """Whether the best model is as large as the cap on N_total allows."""
        cap = self.max_total_params
        return cap is not None and self.best.total_params > 0.999 * cap

    def to_dicts(self) -> list[dict[str, Any]]:
        """One flat row a sparsity."""
        return [dict(vars(row)) for row in self.rows]

    def __str__(self) -> str:
        head = ["N_total/N_active", "experts", "N_active", "N_total", "D", "loss", "below dense, %"]
        cells = [[*head, "compute of a dense model"]]
        for r in self.rows:
            experts = "–" if r.experts is None else f"{r.experts:.3g}"
            sizes = (format_count(v, zeros=True) for v in (r.params, r.total_params, r.tokens))
            gain, times = "–", "–"
            if r.sparsity > 1:
                gain = _with(100 * r.gain, r.gain_interval, 100, ".2f")
                times = f"×{_with(r.compute_ratio, r.compute_ratio_interval, 1, '.3g')}"
            loss = _with(r.loss, r.loss_interval, 1, "#.4g")
            cells.append([f"{r.sparsity:.3g}", experts, *sizes, loss, gain, times])
        cap = self.max_total_params
        limit = "" if cap is None else f", N_total of at most {format_count(cap)}"
        if cap is not None and not self.binds:
            limit += " (it does not bind)"
        b = self.best
        chosen = (format_count(v, zeros=True) for v in (b.params, b.total_params, b.tokens))
        best = "Best: N_active = {} of {} in all, on {} {}.".format(*chosen, self.unit)
        title = f"At {self.compute:.3g} training FLOPs{limit}; {100 * self.level:g} % intervals:"
        return "\n".join(
            [title, "", markdown_table(cells), best, "", *serious(self.diagnostics)]
        ).rstrip()


def _with(value: float, span: Interval | None, unit: float, form: str) -> str:
    return f"{value:{form}}" + (
        "" if span is None else f" ({unit * span[0]:{form}}–{unit * span[1]:{form}})"
    )


def best_experts(
    fit: Fit, C: float, max_total_params: float | None, sparsity: float | None, level: float
) -> BestExperts:
    """See :meth:`flops_fit.fit.Fit.best_experts`."""
    fit = fit.with_experts(1.0)  # it refuses another law
    most = _range(fit.runs)["high"] if sparsity is None else sparsity
    check_number("sparsity", most, at_least=1, expected="N_total/N_active, a number of at least 1")
    cap = None
    if max_total_params is not None:
        cap = check_number("max_total_params", max_total_params, above=0)
    steps = [float(2**i) for i in range(1, 30) if 2**i < 0.8 * most][-(_MOST_ROWS - 1) :]
    dense, *others = [
        fit.with_experts(S, cap) for S in (1.0, *steps, *([most] if most > 1 else []))
    ]
    least = dense.predict(C, level, max_params=cap)
    rows, notes = [_row(dense, dense, least, least, cap)], [*least.diagnostics]
    for other in others:
        found = other.predict(C, level, max_params=cap)
        row = _row(other, dense, found, least, cap)
        if row.sparsity > 1.001 * rows[-1].sparsity:
            near = len(rows) > 1 and row.sparsity < _ALIKE * rows[-1].sparsity
            rows[-1:] = [row] if near else [rows[-1], row]
            notes += found.diagnostics
    told = {str(d): d for d in notes if d.code not in ("cap_binds", "dense_answer")}
    return BestExperts(C, cap, level, fit.runs.unit, tuple(rows), tuple(told.values()))


def _row(
    fit: Fit, dense: Fit, found: Prediction, least: Prediction, cap: float | None
) -> ExpertsRow:
    law, N = fit.law, found.optimal_params
    assert isinstance(law, Experts)
    S = float(law.at(N))
    gain, ratio = _NO_GAIN if fit is dense else _against_dense(fit, dense, found, least, cap)
    return ExpertsRow(
        sparsity=S,
        experts=_experts(fit.runs, S, N),
        params=N,
        total_params=S * N,
        tokens=found.optimal_tokens,
        loss=found.expected_loss,
        gain=gain.value,
        compute_ratio=ratio.value,
        params_interval=found.intervals["optimal_params"],
        loss_interval=found.intervals["expected_loss"],
        gain_interval=gain.interval,
        compute_ratio_interval=ratio.interval,
    )


def _against_dense(
    fit: Fit, dense: Fit, found: Prediction, least: Prediction, cap: float | None
) -> tuple[Estimate, Estimate]:
    """By how much the loss is lower, and how many times the compute a dense model needs for it."""
    own, other, C = fit._evidence, dense._evidence, found.target_compute
    gain, free = 1 - found.expected_loss / least.expected_loss, dense.law
    assert isinstance(free, Experts)
    free = free.with_experts(1.0)  # the dense model that needs more compute is held to no cap
    ratio = free.compute_for(found.expected_loss, fit.flops) / C if gain > 0 else 1.0
    if own.no_interval:
        none = (None, found.level, "none", own.no_interval)
        return Estimate(gain, *none), Estimate(ratio, *none)
    losses = own.optima(C, None, cap).loss
    gains = 1 - losses / other.optima(C, None, cap).loss
    ratios = np.exp(log_compute_draws(other, losses[:, 0], ratio * C)) / C
    return answer(own, gains, found.level), answer(own, ratios, found.level)


def _experts(runs: RunTable, sparsity: float, N: float) -> float | None:
    """Experts for each that is visited, by the share of N_active in experts: a line in ln N in logs."""
    S, experts = runs.sparsity, runs.experts
    assert S is not None
    if experts is None or not np.any(mixed := (experts > 1) & (S > 1)):
        return None
    share = np.log((S[mixed] - 1) / (experts[mixed] - 1))
    x = np.log(runs.params[mixed])
    slope = float(np.polyfit(x - x.mean(), share, 1)[0]) if np.ptp(x) > 0.1 else 0.0
    at = np.clip(np.log(N), x.min(), x.max()) - x.mean()
    return 1 + (sparsity - 1) / float(min(np.exp(np.mean(share) + slope * at), 1.0))
