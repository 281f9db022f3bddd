"""The figures that every fit may have; the others need more than losses."""

from flops_fit.report import FIGURES

_OF_A_SWEEP = (
    "rates", "batches", "training", "collapse", "lr_valley", "batch_valley", "lr_rule", "batch_rule",
    "decay_valley", "decay_rule",
)  # fmt: skip
OF_A_FIT = [kind for kind in FIGURES if kind.name not in _OF_A_SWEEP]
