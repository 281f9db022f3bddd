"""Benchmark scores of larger runs: from a law of the task's loss, directly in N and D, or both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from flops_fit.errors import (
    FitError,
    InputError,
    InputTypeError,
    TableError,
    check_choice,
    check_number,
)
from flops_fit.fit.checks import off_the_runs, trust_of
from flops_fit.fit.fit import Fit
from flops_fit.fit.fitting import fit_runs
from flops_fit.fit.intervals import Interval, check_level
from flops_fit.fit.metric_routes import (
    FEWEST,
    LawOfLoss,
    Route,
    Scale,
    backtest_routes,
    routes_of,
)
from flops_fit.fit.prediction import serious
from flops_fit.fit.solver import finding
from flops_fit.flops.functions import Floats
from flops_fit.records import Diagnostic, Severity, finite_json
from flops_fit.table.headings import rank
from flops_fit.table.run_table import RunTable
from flops_fit.text import card, format_count, markdown_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MetricKind = Literal["accuracy", "pass@k", "loss"]
BOTH, LAW = "both", "law"

_FAR_APART = 3.0  # times the held-out error of the better route, from which the other is left out
_CLEAR = 2.0  # standard errors above chance
_TREND_LEVEL = 0.01
_FEW_ABOVE = 5
_AHEAD = 10.0  # times the largest run's compute
_WIDE: dict[Severity, float] = {"warning": 0.25, "critical": 0.75}  # of what scores can be
_POOR = 0.25  # held-out error, of the range of scores that the runs show


@dataclass(frozen=True)
class MetricPrediction:
    """A score at N and D: of one run, with its central interval at ``level``.

    ``compute`` is C = F(N)·D. ``routes`` has the value and interval of each route alone. Where the runs
    show nothing of the metric, ``value`` is NaN and there is no interval; ``diagnostics`` say why.
    """

    column: str
    params: float
    tokens: float
    compute: float
    value: float
    interval: Interval | None
    level: float
    routes: Mapping[str, tuple[float, Interval | None]]
    diagnostics: tuple[Diagnostic, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; ``None`` where a number is not known."""
        return dict(finite_json(vars(self)))

    def _rows(self) -> list[list[str]]:
        rows = [["", self.column, f"{100 * self.level:g} % interval"]]
        for name, (value, span) in {"answer": (self.value, self.interval), **self.routes}.items():
            shown = "cannot be predicted" if value != value else f"{value:.3f}"
            rows.append([name, shown, "none" if span is None else f"{span[0]:.3f}–{span[1]:.3f}"])
        return rows

    def _title(self) -> str:
        size, data = format_count(self.params), format_count(self.tokens)
        return f"{self.column} at N = {size}, D = {data}, C = {self.compute:.3g}"

    def __str__(self) -> str:
        return "\n".join([self._title(), markdown_table(self._rows()), *serious(self.diagnostics)])

    def _repr_html_(self) -> str:
        return card(self._title(), self._rows(), serious(self.diagnostics))


@dataclass(frozen=True, eq=False)
class MetricFit:
    """How a metric grows with N and D; made by :func:`metric`.

    ``runs`` were fitted, ``scores`` are their values of the metric, ``loss_fit`` is the law of the loss
    that the first of the two steps takes, which also says which N and D are best at a C. ``headline`` is
    the route that answers: ``"two steps"``, ``"direct"`` or ``"both"``, the mean of the two, with half of
    the draws from each; for a loss the ``"law"``. ``held_out`` has the mean error of each route on the
    largest runs, predicted from the others, and ``widened`` the factor by which those errors widen its
    intervals. ``trust`` follows from ``diagnostics``, as for a :class:`Fit`.
    """

    column: str
    kind: MetricKind
    scale: Scale
    runs: RunTable
    scores: Floats
    loss_fit: Fit
    headline: str
    held_out: Mapping[str, float]
    widened: Mapping[str, float]
    diagnostics: tuple[Diagnostic, ...]
    _routes: Mapping[str, Route] = field(repr=False)

    @property
    def trust(self) -> Literal["ok", "caution", "no"]:
        """From the worst diagnostic; at ``"no"`` nothing is predicted."""
        return trust_of(self.diagnostics)

    @property
    def chance(self) -> float:
        """The score without any ability."""
        return self.scale.chance

    def draws(self, N: Floats, D: Floats, route: str = "") -> Floats:
        """Scores of one run at each (N, D), of shape (draws, points), by the headline or a route."""
        name = route or self.headline
        if name == BOTH:
            return np.vstack([self.draws(N, D, each) for each in self._routes])
        scores = self._routes[name].draws(N, D)
        rng = np.random.default_rng(3)
        scores = scores + rng.normal(0.0, self._routes[name].sd, scores.shape)
        middle = np.median(scores, axis=0)
        scores = middle + self.widened.get(name, 1.0) * (scores - middle)
        return scores if self.kind == "loss" else np.clip(scores, 0.0, 1.0)

    def values(self, N: Floats, D: Floats, route: str = "") -> Floats:
        """The score at each (N, D): the median of the drawn laws."""
        name = route or self.headline
        names = list(self._routes) if name == BOTH else [name]
        medians = [np.median(self._routes[n].draws(N, D), axis=0) for n in names]
        return np.asarray(np.mean(medians, axis=0))

    def span(self, N: Floats, D: Floats, level: float = 0.9, route: str = "") -> Floats:
        """The ends of the interval of one run at each (N, D): (2, points)."""
        check_level(level)
        ends = [0.5 - level / 2, 0.5 + level / 2]
        return np.asarray(np.quantile(self.draws(N, D, route), ends, axis=0))

    def predict(self, at: float | tuple[float, float], level: float = 0.9) -> MetricPrediction:
        """The score of one run of C training FLOPs, at its best N and D, or of a pair (N, D).

        InputError where ``at`` is neither one nor two positive numbers.
        """
        check_level(level)
        pair = at if isinstance(at, tuple) else (at,)
        if isinstance(at, list) or len(pair) not in (1, 2):
            raise InputError(f"expected C, or a pair (N, D) as a tuple, one at a time; got {at!r}.")
        params, *rest = (check_number("C, or N and D", v, above=0) for v in pair)
        notes = []
        if rest:
            tokens = rest[0]
        else:
            best = self.loss_fit.optimal(params)
            params, tokens = float(best.params), float(best.tokens)
            if self.loss_fit.trust == "no":
                notes.append(finding("metric_optimum"))
        N, D = np.array([params]), np.array([tokens])
        C = float(self.loss_fit.flops(N)[0] * tokens)
        notes += off_the_runs(self.loss_fit._evidence, params, tokens, shape=bool(rest))
        routes: dict[str, tuple[float, Interval | None]] = {}
        if self.trust == "no":
            notes += [d for d in self.diagnostics if d.severity == "critical"]
            value, interval = float("nan"), None
        else:
            for name in dict.fromkeys((self.headline, *self._routes)):
                low, high = self.span(N, D, level, name)[:, 0].tolist()
                routes[name] = float(self.values(N, D, name)[0]), (low, high)
            value, interval = routes.pop(BOTH) if BOTH in routes else routes[self.headline]
            alone = sorted(v for v, _ in routes.values())
            if interval and not interval[0] <= alone[0] <= alone[-1] <= interval[1]:
                notes.append(finding("metric_routes_differ", low=alone[0], high=alone[-1]))
        where = (self.column, params, tokens, C)
        return MetricPrediction(*where, value, interval, level, routes, tuple(notes))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        same = "column", "kind", "headline", "held_out", "widened", "chance", "trust", "diagnostics"
        law = {"law": self.loss_fit.law.name, "params": self.loss_fit.law.params}
        scores = dict(zip(self.runs.labels, self.scores.tolist(), strict=True))
        own = {name: getattr(self, name) for name in same}
        return dict(finite_json({**own, "loss_law": law, "scores": scores}))

    def _rows(self) -> list[list[str]]:
        rows = [["route", "scatter of a run", "error on the largest runs, held out"]]
        for name, route in self._routes.items():
            error = f"{self.held_out[name]:.3f}" if name in self.held_out else "–"
            mark = " (answers)" if name == self.headline else ""
            rows.append([name + mark, f"{route.sd:.3f}", error])
        return rows

    def _title(self) -> str:
        low, high = float(np.min(self.scores)), float(np.max(self.scores))
        chance = "" if self.kind == "loss" else f", chance {self.chance:.3g}"
        answers = ": the mean of both answers" if self.headline == BOTH else ""
        return (
            f"{self.column} of {len(self.runs)} runs, {low:.3g} to {high:.3g}{chance}; "
            f"trust: {self.trust}{answers}"
        )

    def summary(self) -> str:
        """The routes with their scatter and held-out errors, and every finding."""
        return "\n".join(
            [self._title(), "", markdown_table(self._rows()), "", *map(str, self.diagnostics)]
        )

    def plot(self, ax: Axes | None = None, level: float = 0.9) -> Figure:
        """The runs' scores over compute, with each route along the best N and D and the interval."""
        from flops_fit.report.metrics import draw_metric, metric_data

        return draw_metric(metric_data(self, level), ax)

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        return f"<MetricFit of {self.column} to {len(self.runs)} runs, trust: {self.trust}>"

    def _repr_html_(self) -> str:
        return card(self._title(), self._rows(), map(str, self.diagnostics))


def metric(
    runs: Any,
    column: str,
    kind: MetricKind = "accuracy",
    *,
    chance: float = 0.0,
    ceiling: float | None = 1.0,
    loss: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> MetricFit:
    """Fit how a benchmark's score grows with N and D, in two ways, and judge both on held-out runs.

    *Two steps* (Bhagia et al. 2024, arXiv:2412.04403): a law of the loss in N and D, as
    :func:`fit_runs` has it, then score = chance + (ceiling − chance)·σ(−k·(L − L₀)). *Direct* (after
    arXiv:2512.08894): score = chance + (ceiling − chance)·exp(−A/N^α − B/D^β). Each way is fitted
    without the largest fifth and two fifths of the runs and predicts them. The mean of both answers,
    unless one missed by three times as much as the other or more. Intervals are those of one run: they
    hold both steps, the law's misfit, the scatter of scores, and are widened where the held-out runs
    lay outside. A metric that shows nothing above chance, or no trend, has trust ``"no"`` and no
    number: what emerges later cannot be read from runs below the threshold.

    ``runs`` are anything :meth:`flops_fit.RunTable.read` accepts, with names of columns in ``columns``; those
    without a value of the metric are left out. ``column`` is the heading of the metric, or the name it has in
    ``find_optimal(metrics=)``. ``kind`` is ``"accuracy"``: a share between ``chance``, the score of guessing
    (0.25 with four choices), and ``ceiling``, the highest score there is (``None`` fits it, which takes runs
    that come near); ``"pass@k"``: the same without chance; or ``"loss"``: a task's loss or bits per byte,
    which a law of N and D answers alone. ``loss`` is the heading of the loss of the first step. By default
    that is the runs' held-out loss; the bits per byte of the task's own right answers follow a benchmark more
    closely.

    TableError where there is no such column; InputError where the scores are no shares, or an argument is
    not valid; FitError where fewer than eight runs have the metric.

    >>> from flops_fit import reference
    >>> runs = reference.runs("llama3_2024").to_dicts()
    >>> for run in runs:
    ...     run["accuracy"] = 0.25 + 0.75 / (1 + 2.7 ** (8 * (run["loss"] - 0.7)))
    >>> metric(runs, "accuracy", chance=0.25).trust
    'ok'
    """
    check_choice("kind", kind, ("accuracy", "pass@k", "loss"))
    check_number("chance", chance, at_least=0, below=1)
    if ceiling is not None:
        check_number("ceiling", ceiling, above=chance, at_most=1)
    if chance and kind != "accuracy":
        raise InputError(f"chance: expected none for kind={kind!r}; got {chance!r}. Leave it out.")
    if not isinstance(column, str):
        raise InputTypeError(f"column: expected the heading of one metric; got {column!r}.")
    if loss == column and kind != "loss":
        raise InputError(
            f"loss: expected another column than the metric; got {loss!r} as both. Leave it out for the "
            'held-out loss of the runs, or give kind="loss".'
        )
    of_loss = column if kind == "loss" else loss
    named = {**(columns or {}), **({"loss": of_loss} if of_loss else {})}
    try:
        table = RunTable.read(runs, named, tuple(filter(None, {column: 0, of_loss: 0})))
    except TableError as error:
        if own := [n for n in ("params", "tokens", "loss") if kind != "loss" and rank(n, column)]:
            raise InputError(
                f"column: expected a metric beside N, D and the loss; got {column!r}, which is the runs' "
                f"{own[0]}. Name another column, or give kind='loss' for a loss."
            ) from error
        raise
    if of_loss and (isinstance(runs, RunTable) or not table.recognised):  # not read by headings
        table = table.with_loss(of_loss)
    if kind == "loss":
        fit = fit_runs(table)
        routes: dict[str, Route] = {LAW: LawOfLoss(fit._evidence)}
        held: dict[str, float] = {}
        law = (fit.runs, fit.runs.loss, fit, LAW, held, held, fit.diagnostics, routes)
        return MetricFit(column, kind, Scale(0.0), *law)
    table = table.having(column)
    scores = table.metrics[column]
    if len(table) < FEWEST:
        raise FitError(
            f"expected {FEWEST} runs or more with a value of {column!r}; got {len(table)}. Add runs."
        )
    if np.min(scores) < 0 or np.max(scores) > 1:
        raise InputError(
            f"{column}: expected shares between 0 and 1; got {np.min(scores):.4g} to "
            f"{np.max(scores):.4g}. Divide percentages by 100, or give kind='loss'."
        )
    if ceiling is not None and np.max(scores) > ceiling:
        raise InputError(
            f"ceiling: expected the highest score there is, {np.max(scores):.4g} or more by these runs; "
            f"got {ceiling:g}. Raise it, or give None to fit it."
        )
    scale = Scale(float(chance), None if ceiling is None else float(ceiling))
    fit = fit_runs(table)
    ways = routes_of(table, scores, scale, fit._evidence)
    found = _signal(table, scores, scale, min(route.sd for route in ways.values()))
    held_out: dict[str, float] = {}
    widened: dict[str, float] = {}
    headline = BOTH
    if all(d.severity != "critical" for d in found):
        held_out, widened = backtest_routes(table, scores, scale, fit.flops)
        found += _quality(held_out, float(np.ptp(np.maximum(scores, scale.chance))), fit)
        ranked = sorted(held_out, key=held_out.__getitem__)
        if held_out[ranked[-1]] > _FAR_APART * held_out[ranked[0]]:
            headline = ranked[0]
    of_both = (table, scores, fit, headline, held_out, widened)
    made = MetricFit(column, kind, scale, *of_both, tuple(found), ways)
    return replace(made, diagnostics=(*found, *_width_ahead(made)))


def _width_ahead(fit: MetricFit) -> list[Diagnostic]:
    """How wide the interval is at ten times the largest run's compute, of all that scores can be."""
    if fit.trust == "no" or fit.loss_fit.trust == "no":
        return []
    best = fit.loss_fit.optimal(_AHEAD * fit.loss_fit.largest_compute)
    low, high = fit.span(np.array([best.params]), np.array([best.tokens]))[:, 0].tolist()
    share = (high - low) / (1.0 if fit.scale.ceiling is None else fit.scale.range)
    severity = [level for level, most in _WIDE.items() if share > most]
    return [finding("metric_width", severity[-1], low=low, high=high)] if severity else []


def _signal(table: RunTable, scores: Floats, scale: Scale, sd: float) -> list[Diagnostic]:
    """Whether there is anything to extrapolate, where one run scatters by ``sd``."""
    from scipy.stats import spearmanr

    top = scores[np.argsort(table.loss)[: max(len(scores) // 4, 3)]]
    above = float(np.mean(top)) - scale.chance
    words = {"sd": sd, "above": above, "chance": scale.chance, "total": len(scores)}
    if above <= _CLEAR * sd / np.sqrt(len(top)):
        return [finding("metric_at_chance", **words)]
    p = 1.0
    if np.ptp(scores) > 0:
        p = float(spearmanr(-table.loss, scores, alternative="greater").pvalue)
    if not p < _TREND_LEVEL:
        return [finding("metric_no_trend", p=p, **words)]
    clear = int(np.sum(scores > scale.chance + _CLEAR * sd))
    few = [finding("metric_few_above", count=clear, **words)] if clear < _FEW_ABOVE else []
    lost = sum(1 for e in table.excluded if "no value of" in e.reason)
    return few + ([finding("metric_missing", count=lost)] if lost else [])


def _quality(held_out: Mapping[str, float], reach: float, fit: Fit) -> list[Diagnostic]:
    """How well the largest runs were predicted, beside how far the scores ``reach``."""
    poor = min(held_out.values()) > _POOR * reach
    errors = "; ".join(f"{name} {error:.3f}" for name, error in held_out.items())
    out = [finding("metric_held_out", "warning" if poor else "ok", errors=errors)]
    return out + ([finding("metric_loss_law")] if fit.trust == "no" else [])
