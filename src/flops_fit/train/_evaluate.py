"""The held-out loss of a trained model, with its standard error."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flops_fit.data import DataSpec
from flops_fit.objective import Objective, to_device
from flops_fit.ranks import ALONE, Ranks

__all__ = ["evaluate", "ratio_standard_error"]

_PARTS = 32  # batches the held-out set is cut into at least, to see how they vary


def evaluate(
    model: Any,
    held_out: DataSpec,
    objective: Objective,
    device: str,
    batch_size: int,
    ranks: Ranks = ALONE,
) -> tuple[float, float]:
    """Mean loss over every unit of the held-out set, and its standard error.

    Sums and counts are kept batch by batch; the batches are the sampling units of the standard
    error, as samples next to each other (pieces of one document) are alike. Each rank judges
    every so manieth batch, by the buffers of rank 0, and none is judged twice.
    """
    import torch

    if held_out.size is not None:
        batch_size = max(1, min(batch_size, held_out.size // _PARTS))
    sums: list[float] = []
    counts: list[float] = []
    ranks.follow(list(model.buffers()))
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for batch in held_out.in_order(batch_size, ranks.rank, ranks.size):
            if not objective.has_units(batch):
                continue
            total, count = objective(model, to_device(batch, device))
            sums.append(float(total))
            counts.append(float(count))
    model.train(was_training)
    judged = ranks.gather((sums, counts))
    every_sum, every_count = (np.concatenate(lists) for lists in zip(*judged, strict=True))
    return ratio_standard_error(every_sum, every_count)


def ratio_standard_error(
    sums: NDArray[np.float64], counts: NDArray[np.float64]
) -> tuple[float, float]:
    """The ratio of two totals, and its standard error over the parts they come from.

    The linearised variance of a ratio estimator, Σ(sᵢ − r·cᵢ)²·m/(m − 1)/(Σcᵢ)² (Cochran 1977,
    eq. 6.13), without the finite-population factor.
    """
    m, total = len(counts), counts.sum()
    if m == 0 or total <= 0:
        return math.nan, math.nan
    ratio = float(sums.sum() / total)
    if m == 1:
        return ratio, math.nan
    spread = float(np.sum((sums - ratio * counts) ** 2) * m / (m - 1))
    return ratio, math.sqrt(spread) / float(total)
