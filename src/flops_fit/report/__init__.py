"""How an answer is presented: table, words, figures, one HTML page.

Each figure has its data and its drawing: ``draw_isoflop(isoflop_data(fit), ax=ax)``. A drawing takes axes,
by default those of a new figure, and returns their figure. :data:`FIGURES`
lists them all, :func:`save_figures` writes them with their data.
"""

from flops_fit.report.comparison import write_comparison
from flops_fit.report.figures import (
    FIGURES,
    Drawn,
    FigureKind,
    ReportData,
    draw_figures,
    save_figures,
)
from flops_fit.report.isoflop import (
    draw_isoflop,
    draw_residual_map,
    draw_residuals,
    draw_surface,
    isoflop_data,
    residuals_data,
    surface_data,
)
from flops_fit.report.optima import (
    approaches_data,
    backtest_data,
    draw_approaches,
    draw_backtest,
    draw_optimum,
    optimum_data,
)
from flops_fit.report.page import SECTIONS, Section, write_report
from flops_fit.report.style import text_as_text
from flops_fit.report.table import answer_card, answer_in_words, approaches_table, chinchilla_table
from flops_fit.report.tuning import (
    draw_collapse,
    draw_rule,
    draw_training,
    draw_trials,
    draw_valley,
    rule_data,
    rule_table,
    training_data,
    trials_data,
    valley_data,
)

__all__ = [
    "FIGURES", "SECTIONS", "Drawn", "FigureKind", "ReportData", "Section", "answer_card",
    "answer_in_words", "approaches_data", "approaches_table", "backtest_data", "chinchilla_table",
    "draw_approaches", "draw_backtest", "draw_collapse", "draw_figures", "draw_isoflop",
    "draw_optimum", "draw_residual_map", "draw_residuals", "draw_rule", "draw_surface",
    "draw_training", "draw_trials", "draw_valley", "isoflop_data", "optimum_data", "residuals_data",
    "rule_data", "rule_table", "save_figures", "surface_data", "text_as_text", "training_data",
    "trials_data", "valley_data", "write_comparison", "write_report",
]  # fmt: skip
