"""The recipes of this library's own: where nothing is asked for, and where nothing is tuned."""

from __future__ import annotations

from flops_fit.recipes._hparams import HParams
from flops_fit.records import ParamCount

__all__ = ["constant", "default"]


def default(params: ParamCount, units: float, unit: str) -> HParams:
    """Learning rate falling with size, batch growing with the run.

    The learning rate is the line through the sizes of Brown et al. 2020, Table 2.1
    (6e-4 at 125 M, 1e-4 at 13 B): 6e-4·(N/1.25e8)^−0.39, at most 0.02. The batch follows the
    exponent of Li et al. 2025 (StepLaw), D^0.571, with a quarter of its constant: short runs need
    steps more than they need large batches.

    β₂ is one constant per step. A half-life in units (:func:`scaled_beta2`) is left to the user:
    that of Brown et al., .95 at half a million tokens, is 6.8 million tokens, which is longer than
    whole runs at the small end of a sweep, and no other anchor is published for such runs.
    """
    lr = min(0.02, 6e-4 * (params.non_embedding / 1.25e8) ** -0.39)
    batch = max(0.15 * units**0.571, 1.0)
    return HParams(lr=lr, batch_units=batch, beta2=0.98, recipe="default-1")


def constant(params: ParamCount, units: float, unit: str) -> HParams:
    """The same values for every run whatever its size: what a sweep is that nobody tuned.

    AdamW as torch has it where nothing is said (rate 1e-3, β 0.9/0.999, decay 0.01), on batches of
    4,096 tokens or 128 samples. Warmup, schedule and clipping are those of :func:`default`, so that
    the two differ in nothing but what was chosen by size and length.

    It serves as a baseline. One rate for all sizes is too small for the smallest or too large for
    the largest, which bends the fitted law: Porian et al. 2024 (arXiv:2406.19146) trace a part of
    Kaplan's exponent to this.
    """
    return HParams(
        lr=1e-3,
        batch_units=4096.0 if unit == "tokens" else 128.0,
        weight_decay=0.01,
        beta2=0.999,
        recipe="constant-1",
    )
