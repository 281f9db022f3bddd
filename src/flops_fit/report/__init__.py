"""How an answer is shown: table, words, figures, one HTML page.

Each figure has its data and its drawing: ``draw_isoflop(isoflop_data(fit), ax=ax)``. :data:`FIGURES`
lists them all, :func:`save_figures` writes them with their data.
"""

from flops_fit.report._compared import approaches_data, backtest_data, surface_data
from flops_fit.report._data import (
    isoflop_data,
    loss_data,
    params_data,
    residuals_data,
    tokens_data,
)
from flops_fit.report._draw import (
    draw_isoflop,
    draw_optimum,
    draw_residual_map,
    draw_residuals,
)
from flops_fit.report._draw_compared import draw_approaches, draw_backtest, draw_surface
from flops_fit.report._draw_tuned import draw_collapse, draw_trials
from flops_fit.report._figures import (
    FIGURES,
    Drawn,
    FigureKind,
    draw_all,
    draw_figures,
    save_figures,
)
from flops_fit.report._html import write_report
from flops_fit.report._material import Material, material
from flops_fit.report._sections import SECTIONS, Section
from flops_fit.report._style import text_as_text
from flops_fit.report._table import (
    answer_card,
    answer_in_words,
    approaches_table,
    chinchilla_table,
)
from flops_fit.report._tuned import batch_data, collapse_data, rate_data

__all__ = [
    "FIGURES",
    "SECTIONS",
    "Drawn",
    "FigureKind",
    "Material",
    "Section",
    "answer_card",
    "answer_in_words",
    "approaches_data",
    "approaches_table",
    "backtest_data",
    "batch_data",
    "chinchilla_table",
    "collapse_data",
    "draw_all",
    "draw_approaches",
    "draw_backtest",
    "draw_collapse",
    "draw_figures",
    "draw_isoflop",
    "draw_optimum",
    "draw_residual_map",
    "draw_residuals",
    "draw_surface",
    "draw_trials",
    "isoflop_data",
    "loss_data",
    "material",
    "params_data",
    "rate_data",
    "residuals_data",
    "save_figures",
    "surface_data",
    "text_as_text",
    "tokens_data",
    "write_report",
]
