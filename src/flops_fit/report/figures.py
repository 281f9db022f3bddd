"""All figures of a fit: a list of kinds, each with its data and its drawing."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from flops_fit.errors import FlopsFitError, InputError
from flops_fit.files import csv_text, output_errors, write_output
from flops_fit.fit.backtesting import Backtest, backtest
from flops_fit.fit.fit import Fit
from flops_fit.fit.prediction import Prediction
from flops_fit.laws import LAWS
from flops_fit.records import Diagnostic, Run
from flops_fit.report import isoflop, optima, style
from flops_fit.report import tuning as hparams
from flops_fit.report.style import Axes, Figure, FigureData
from flops_fit.report.table import asset, within_reach
from flops_fit.store.read import TrainingCurve
from flops_fit.tune.effects import Collapse
from flops_fit.tune.tuning import Tuning

_MOST_TESTED = 1000  # runs


@dataclass(frozen=True)
class ReportData:
    """Everything that a figure or a section of the page may show.

    ``level`` is that of all intervals. ``predictions`` are the table's rows, by default one for each
    budget of the runs; the last is put in words. ``diagnostics`` are findings besides those of the fit,
    ``runs`` come with their states if a sweep made them, and ``provenance`` are facts by name besides
    those that the page collects itself. ``tuning`` is what was tried before the sweep, ``curves`` are
    its training curves, and ``collapse`` the same on one scale, if there are any.
    """

    fit: Fit
    level: float = 0.9
    predictions: Sequence[Prediction] | None = None
    diagnostics: Iterable[Diagnostic] = ()
    runs: Sequence[Run] = ()
    title: str | None = None
    provenance: Mapping[str, str] | None = None
    tuning: Tuning | None = None
    collapse: Collapse | None = None
    curves: Sequence[TrainingCurve] = ()

    @cached_property
    def answers(self) -> tuple[Prediction, ...]:
        """The predictions that were given, or those at the budgets of the fitted runs."""
        budgets = sorted(set(self.fit.runs.budget))
        return tuple(self.predictions or (self.fit.predict(float(b), self.level) for b in budgets))

    @cached_property
    def findings(self) -> tuple[Diagnostic, ...]:
        """Those of the fit, any others, and those of the answers."""
        told = (d for p in self.answers for d in p.diagnostics)
        return tuple(dict.fromkeys((*self.fit.diagnostics, *self.diagnostics, *told)))

    @cached_property
    def paths(self) -> dict[str, optima.OptimalPath]:
        """N*, D* and the loss over compute, predicted once for all figures."""
        return optima.optimal_path(self.fit, self.level)

    @cached_property
    def has_optimum(self) -> bool:
        """Whether the best sizes lie anywhere near those of the runs."""
        runs, law = self.fit.runs, self.fit.law
        sizes = law.optimal(np.array([runs.flops.min(), runs.flops.max()]), self.fit.flops).params
        return within_reach(self.fit, np.append(sizes, self.paths["params"].value))

    @cached_property
    def backtests(self) -> tuple[Backtest, ...]:
        """The largest budgets predicted with intervals, where that is a matter of a second.

        Of one of several groups there are none: it shares constants with the others.
        """
        fit, tops = self.fit, range(1, len(self.fit.sensitivity.held_out) + 1)
        slow = fit.hparams is not None or fit.law.name not in LAWS or len(fit.runs) > _MOST_TESTED
        asked = fit._question
        if slow or asked is None:
            return ()
        own = {"law": fit.law.name, "flops_per_unit": fit.flops, "hparams": None, "curves": None}
        options = {**asked.options, **own}
        with suppress(FlopsFitError):
            return tuple(backtest(asked.table, top, level=self.level, **options) for top in tops)
        return ()

    @cached_property
    def drawn(self) -> tuple[Drawn, ...]:
        """Every figure that there is data for, drawn once for files and page."""
        return tuple(draw_figures(self))


@dataclass(frozen=True)
class FigureKind:
    """A figure that a fit may have: the name of its files and label, what it shows, how to read it.

    ``data`` goes from the report's data to what is drawn, ``None`` if there is nothing to show;
    ``draw(data, ax=None)`` returns the figure.
    """

    name: str
    title: str
    caption: str
    data: Callable[[ReportData], FigureData | None]
    draw: Callable[..., Figure]


# To add a figure, add an entry and its words: files, page and CSV follow from this list.
_KINDS: dict[str, tuple[Callable[[ReportData], FigureData | None], Callable[..., Figure]]] = {
    "isoflop": (lambda m: isoflop.isoflop_data(m.fit), isoflop.draw_isoflop),
    "loss": (lambda m: optima.optimum_data(m.fit, "loss", m.level, m.paths), optima.draw_optimum),
    "params": (
        lambda m: optima.optimum_data(m.fit, "params", m.level, m.paths) if m.has_optimum else None,
        optima.draw_optimum,
    ),
    "tokens": (
        lambda m: optima.optimum_data(m.fit, "tokens", m.level, m.paths) if m.has_optimum else None,
        optima.draw_optimum,
    ),
    "surface": (lambda m: isoflop.surface_data(m.fit), isoflop.draw_surface),
    "residuals": (lambda m: isoflop.residuals_data(m.fit), isoflop.draw_residuals),
    "residual_map": (
        lambda m: isoflop.residuals_data(m.fit) if m.has_optimum else None,
        isoflop.draw_residual_map,
    ),
    "backtest": (lambda m: optima.backtest_data(m.fit, m.backtests), optima.draw_backtest),
    "approaches": (
        lambda m: optima.approaches_data(m.fit, m.level, m.paths),
        optima.draw_approaches,
    ),
    "lr_valley": (lambda m: hparams.valley_data(m.fit, "lr", m.level), hparams.draw_valley),
    "batch_valley": (
        lambda m: hparams.valley_data(m.fit, "batch_units", m.level),
        hparams.draw_valley,
    ),
    "decay_valley": (
        lambda m: hparams.valley_data(m.fit, "weight_decay", m.level),
        hparams.draw_valley,
    ),
    "lr_rule": (lambda m: hparams.rule_data(m.fit, "lr", m.level), hparams.draw_rule),
    "batch_rule": (lambda m: hparams.rule_data(m.fit, "batch_units", m.level), hparams.draw_rule),
    "decay_rule": (
        lambda m: hparams.rule_data(m.fit, "weight_decay", m.level),
        hparams.draw_rule,
    ),
    "rates": (lambda m: hparams.trials_data(m.tuning, "lr"), hparams.draw_trials),
    "batches": (lambda m: hparams.trials_data(m.tuning, "batch"), hparams.draw_trials),
    "training": (lambda m: hparams.training_data(m.curves), hparams.draw_training),
    "collapse": (lambda m: m.collapse, hparams.draw_collapse),
}
WORDS = tomllib.loads(asset("figures.toml"))
FIGURES = tuple(FigureKind(name, **WORDS[name], data=d, draw=f) for name, (d, f) in _KINDS.items())


@dataclass(frozen=True)
class Drawn:
    """A figure with its kind and with the data it was drawn from."""

    kind: FigureKind
    data: FigureData
    figure: Figure

    def csv(self) -> str:
        """The numbers behind the figure."""
        return csv_text([{k: "" if v != v else v for k, v in r.items()} for r in self.data.rows()])


def draw(kind: FigureKind, data: FigureData, managed: bool = False) -> Drawn:
    """A new figure of this kind; the margins of one that is not ``managed`` are set once."""
    figure = style.new_figure(kind.name, managed)
    kind.draw(data, figure.add_subplot())
    if not managed:
        figure.tight_layout(pad=style.PAD)
    return Drawn(kind, data, figure)


def draw_figures(data: ReportData, managed: bool = False) -> list[Drawn]:
    """Every figure that there is data for; pyplot's ``show()`` displays ``managed`` ones."""
    every = ((kind, kind.data(data)) for kind in FIGURES)
    return [draw(kind, values, managed) for kind, values in every if values is not None]


def draw_one(fit: Fit, name: str, ax: Axes | None = None) -> Figure:
    """The figure of that name, in ``ax`` or axes of its own; InputError where there is none."""
    kinds = {kind.name: kind for kind in FIGURES}
    if name not in kinds:
        raise InputError(f"expected a figure among {list(kinds)}; got {name!r}.")
    values = kinds[name].data(ReportData(fit))
    if values is None:
        raise InputError(f"expected a fit with the data of the figure {name!r}; this one has none.")
    return kinds[name].draw(values, ax=ax)


def save_figures(
    drawn: Sequence[Drawn], folder: str | Path, formats: Sequence[str] = ("png",)
) -> list[Path]:
    """Write each figure in each format, and its data as CSV.

    Text in SVG and PDF stays text. PNG has 300 dots an inch. OutputError if it cannot be written.
    """
    folder = Path(folder)
    written = []
    with output_errors(folder, "plot"), style.text_as_text():
        folder.mkdir(parents=True, exist_ok=True)
        for d in drawn:
            for ending in formats:
                written.append(folder / f"{d.kind.name}.{ending}")
                d.figure.savefig(written[-1], dpi=300)
            written.append(folder / f"{d.kind.name}.csv")
            write_output(written[-1], d.csv())
    return written
