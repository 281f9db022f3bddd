"""All figures of a fit: a list of kinds, each with its data and its drawing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flops_fit.errors import OutputError
from flops_fit.files import csv_text, write_output
from flops_fit.fit.fit import Fit
from flops_fit.fit.prediction import Prediction
from flops_fit.records import Diagnostic, Run
from flops_fit.report.compared import (
    approaches_data,
    backtest_data,
    draw_approaches,
    draw_backtest,
    draw_surface,
    surface_data,
)
from flops_fit.report.data import (
    FigureData,
    OptimalPath,
    isoflop_data,
    loss_data,
    optimal_path,
    params_data,
    residuals_data,
    tokens_data,
)
from flops_fit.report.draw import draw_isoflop, draw_optimum, draw_residual_map, draw_residuals
from flops_fit.report.style import new_figure, text_as_text
from flops_fit.report.tuning import batch_data, collapse_data, draw_collapse, draw_trials, rate_data
from flops_fit.tune.effects import Collapse
from flops_fit.tune.tuning import Tuning

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class ReportData:
    """All that a figure or a section of the page may show.

    Attributes
    ----------
    fit, level
        The fitted law, and the level of all intervals.
    predictions
        The rows of the Chinchilla table, cheapest first; the last one is put in words.
    findings
        Those of the fit and any others.
    runs
        Runs with their states, where they were made here.
    provenance
        Facts by name beside those that the page finds itself: a seed, where records lie.
    title
        What the page is called.
    tuning, collapse
        What was tried before the sweep, and its training curves on one scale, where there are such.
    """

    fit: Fit
    level: float = 0.9
    predictions: tuple[Prediction, ...] = ()
    findings: tuple[Diagnostic, ...] = ()
    runs: tuple[Run, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    title: str = "Compute-optimal training"
    tuning: Tuning | None = None
    collapse: Collapse | None = None

    @cached_property
    def paths(self) -> dict[str, OptimalPath]:
        """N*, D* and the loss over compute, predicted once for all figures."""
        return optimal_path(self.fit, self.level)


def report_data(
    fit: Fit,
    level: float = 0.9,
    *,
    predictions: Sequence[Prediction] | None = None,
    diagnostics: Sequence[Diagnostic] = (),
    runs: Sequence[Run] = (),
    provenance: Mapping[str, str] | None = None,
    title: str | None = None,
    tuning: Tuning | None = None,
    collapse: Collapse | None = None,
) -> ReportData:
    """Material with predictions at each budget of the fitted runs where none are given."""
    rows = predictions or [fit.predict(float(b), level) for b in sorted(set(fit.runs.budget))]
    return ReportData(
        fit,
        level,
        tuple(rows),
        (*fit.diagnostics, *diagnostics),
        tuple(runs),
        dict(provenance or {}),
        title or ReportData.title,
        tuning,
        collapse,
    )


@dataclass(frozen=True)
class FigureKind:
    """A figure that a fit may have.

    Attributes
    ----------
    name
        Of its files, and the figure's label.
    title, caption
        What it shows, and how to read it.
    data
        From the material to what is drawn, ``None`` where there is nothing to show.
    draw
        ``draw(data, ax=None)``, which returns the figure.
    """

    name: str
    title: str
    caption: str
    data: Callable[[ReportData], FigureData | None]
    draw: Callable[..., Figure]


# A figure more is an entry more: files, page and CSV follow from this list.
FIGURES: tuple[FigureKind, ...] = (
    FigureKind(
        "isoflop",
        "Loss against size at each budget",
        "Points are runs, curves the fitted law at one budget each. Where its form is right its "
        "optimum (★) and the minimum of a parabola through the runs (◇) lie close together.",
        lambda m: isoflop_data(m.fit),
        draw_isoflop,
    ),
    FigureKind(
        "loss",
        "Loss over compute",
        "The loss at the optimum. Beyond the runs the form of the law decides, and the interval "
        "holds if that form does. The best of several runs is low by luck as well.",
        lambda m: loss_data(m.fit, m.level, m.paths["expected_loss"]),
        draw_optimum,
    ),
    FigureKind(
        "params",
        "Optimal parameters over compute",
        "How large a model each budget should buy.",
        lambda m: params_data(m.fit, m.level, m.paths["optimal_params"]),
        draw_optimum,
    ),
    FigureKind(
        "tokens",
        "Optimal data over compute",
        "How much data each budget should be spent on.",
        lambda m: tokens_data(m.fit, m.level, m.paths["optimal_tokens"]),
        draw_optimum,
    ),
    FigureKind(
        "surface",
        "The loss surface",
        "Contours of equal fitted loss, and where the runs lie on it. The path crosses each contour "
        "where the least compute reaches that loss.",
        lambda m: surface_data(m.fit),
        draw_surface,
    ),
    FigureKind(
        "residuals",
        "Residuals by size",
        "How far each run lies from the law. Runs that scatter evenly around zero speak for its form.",
        lambda m: residuals_data(m.fit),
        draw_residuals,
    ),
    FigureKind(
        "residual_map",
        "Residuals by compute and distance from the optimum",
        "A region of one colour is a place where the law is wrong, not noise.",
        lambda m: residuals_data(m.fit),
        draw_residual_map,
    ),
    FigureKind(
        "backtest",
        "Would it have foreseen the largest budgets?",
        "The law fitted without the largest budgets foretells their lowest loss.",
        lambda m: backtest_data(m.fit),
        draw_backtest,
    ),
    FigureKind(
        "approaches",
        "Approaches and forms compared",
        "N* of each approach and of the other law forms, divided by that of the answer. What lies "
        "outside the interval disagrees with it.",
        lambda m: approaches_data(m.fit, m.level),
        draw_approaches,
    ),
    FigureKind(
        "rates",
        "How much the learning rate matters",
        "Trials before the sweep: the loss above the lowest of each size and length. Where the valleys "
        "of small and large, short and long lie above each other, the recipe's exponents hold.",
        lambda m: rate_data(m.tuning),
        draw_trials,
    ),
    FigureKind(
        "batches",
        "How much the batch matters",
        "Trials before the sweep, at rates that follow the batch by its square root. Each run has seen "
        "the same data: a larger batch takes fewer steps.",
        lambda m: batch_data(m.tuning),
        draw_trials,
    ),
    FigureKind(
        "collapse",
        "Training curves on one scale",
        "Each run's training loss divided by its last. Runs whose hyper-parameters suit them fall onto one "
        "curve; one apart is worth a look.",
        lambda m: collapse_data(m.collapse),
        draw_collapse,
    ),
)


@dataclass(frozen=True)
class Drawn:
    """A figure with its kind and with the data it was drawn from."""

    kind: FigureKind
    data: FigureData
    figure: Figure


def draw_figures(material: ReportData, managed: bool = False) -> list[Drawn]:
    """Every figure that the material has data for."""
    found = []
    for kind in FIGURES:
        data = kind.data(material)
        if data is not None:
            figure = new_figure(kind.name, managed)
            kind.draw(data, figure.add_subplot())
            found.append(Drawn(kind, data, figure))
    return found


def draw_all(
    fit: Fit, level: float = 0.9, managed: bool = False, *, runs: Sequence[Run] = ()
) -> list[Figure]:
    """Every figure of a fit; each one's label is its name.

    ``managed`` figures belong to pyplot, so that its ``show()`` displays them.
    """
    return [d.figure for d in draw_figures(ReportData(fit, level, runs=tuple(runs)), managed)]


def save_figures(
    drawn: Sequence[Drawn], folder: str | Path, formats: Sequence[str] = ("png",)
) -> list[Path]:
    """Write each figure in each format, and its data as CSV beside it.

    Text in SVG and PDF stays text. PNG has 300 dots an inch.

    Raises
    ------
    OutputError
        The folder cannot be written.
    """
    folder = Path(folder)
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with text_as_text():
            for d in drawn:
                for ending in formats:
                    written.append(folder / f"{d.kind.name}.{ending}")
                    d.figure.savefig(written[-1], dpi=300)
                written.append(_write_rows(d.data, folder / f"{d.kind.name}.csv"))
    except OSError as error:
        raise OutputError(f"plot: {folder} cannot be written ({error.strerror}).") from error
    return written


def _write_rows(data: FigureData, path: Path) -> Path:
    rows: list[dict[str, Any]] = data.rows()
    shown = [{k: "" if v is None or v != v else v for k, v in row.items()} for row in rows]
    write_output(path, csv_text(shown))
    return path
