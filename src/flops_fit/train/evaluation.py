"""The held-out loss with its standard error, and how noisy a gradient is."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flops_fit.data.spec import DataSpec
from flops_fit.distributed import ALONE, Ranks
from flops_fit.objective import Objective, to_device

if TYPE_CHECKING:
    from torch import Tensor, nn

_MIN_BATCHES = 32  # that the held-out set is cut into, to see how they vary


def evaluate(
    model: nn.Module,
    held_out: DataSpec,
    objective: Objective,
    device: str,
    batch_size: int,
    ranks: Ranks = ALONE,
) -> tuple[float, float]:
    """Mean loss over every unit of the held-out set, and its standard error.

    Sums and counts are kept batch by batch; the batches are the sampling units of the standard
    error, as samples next to each other (pieces of one document) are alike. With R ranks each
    evaluates every R-th batch, with the buffers of rank 0, and no batch is evaluated twice.
    """
    import torch

    if held_out.size is not None:
        batch_size = max(1, min(batch_size, held_out.size // _MIN_BATCHES))
    sums: list[float] = []
    counts: list[float] = []
    ranks.broadcast_tensors(list(model.buffers()))
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for batch in held_out.in_order(batch_size, ranks.rank, ranks.size):
            if objective.has_units(batch):
                total, count = objective(model, to_device(batch, device))
                sums.append(float(total))
                counts.append(float(count))
    model.train(was_training)
    by_rank = ranks.all_gather((sums, counts))
    all_sums, all_counts = (np.concatenate(lists) for lists in zip(*by_rank, strict=True))
    return ratio_standard_error(all_sums, all_counts)


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


def noise_scale_of(
    norms: Iterable[tuple[float, float]], whole: tuple[float, float]
) -> float | None:
    """B_simple = tr(Σ)/|G|² from squared gradient norms of small batches and of all of them.

    With E|g_B|² = |G|² + tr(Σ)/B (McCandlish et al. 2018, arXiv:1812.06162, appendix A.1), batches
    of b units and their mean of B units give

        |G|² = (B·|g_B|² − b·|g_b|²)/(B − b),    tr(Σ) = (|g_b|² − |g_B|²)/(1/b − 1/B).

    ``norms`` are (units, |g|²) of each small batch, ``whole`` those of the mean gradient over all
    their units. The result is in units; ``None`` if noise hides the gradient, so that |G|² ≤ 0.

    Examples
    --------
    >>> noise_scale_of([(10, 1.2), (10, 1.2)], (20, 1.1))
    2.0
    """
    small = [(units, square) for units, square in norms if units > 0]
    if len(small) < 2:
        return None
    b = math.fsum(u for u, _ in small) / len(small)
    square = math.fsum(s for _, s in small) / len(small)
    B, all_square = whole
    gradient = (B * all_square - b * square) / (B - b)
    noise = (square - all_square) / (1 / b - 1 / B)
    if not (gradient > 0 and noise >= 0 and math.isfinite(noise)):
        return None
    return round(noise / gradient, 9)


def noise_scale(model: nn.Module, objective: Objective, batches: Iterable[Any]) -> float | None:
    """The gradient noise scale of a model at these batches, in units; its gradients stay empty.

    It is measured in evaluation mode, so that dropout is not taken for noise of the data.
    """
    import torch

    parameters = [p for p in model.parameters() if p.requires_grad]
    summed: list[Tensor] | None = None
    norms: list[tuple[float, float]] = []
    was_training = model.training
    model.eval()
    try:
        for batch in batches:
            if not objective.has_units(batch):
                continue
            total, count = objective(model, batch)
            units = float(count)
            gradients = torch.autograd.grad(total, parameters, allow_unused=True)
            sums = [
                torch.zeros_like(p) if g is None else g
                for p, g in zip(parameters, gradients, strict=True)
            ]
            norms.append((units, _square(sums) / units**2))
            summed = sums if summed is None else [a + g for a, g in zip(summed, sums, strict=True)]
    finally:
        model.train(was_training)
    if summed is None:
        return None
    units = math.fsum(u for u, _ in norms)
    return noise_scale_of(norms, (units, _square(summed) / units**2))


def _square(gradients: list[Tensor]) -> float:
    import torch

    return float(torch.stack(torch._foreach_norm(gradients)).double().square().sum())
