"""The figures that every fit may have; the others need a sweep that was made here."""

from flops_fit.report import FIGURES

OF_A_FIT = [kind for kind in FIGURES if kind.name not in ("rates", "batches", "collapse")]
