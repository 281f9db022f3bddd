"""How an answer is shown: table, words, figures, one HTML page."""

from flops_fit.report._figures import draw_all
from flops_fit.report._html import write_report
from flops_fit.report._table import answer_in_words, approaches_table, chinchilla_table

__all__ = ["answer_in_words", "approaches_table", "chinchilla_table", "draw_all", "write_report"]
