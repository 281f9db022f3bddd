"""Mixtures of experts in a table: the parameters that a unit meets, and how many experts there are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from flops_fit.errors import is_number
from flops_fit.records import Experiment
from flops_fit.table.cells import Floats
from flops_fit.table.headings import rank

if TYPE_CHECKING:
    from flops_fit.table.quantities import Quantities


def mixtures(read: Quantities) -> tuple[Floats | None, Floats | None]:
    """N_active where it differs from N, and the experts there are for each that a unit visits."""
    active, experts = read.others.get("active_params"), read.others.get("experts")
    if experts is not None:
        experts = np.maximum(experts / read.others.get("experts_per_token", 1.0), 1.0)
    if active is None or np.array_equal(active, read.data["params"], equal_nan=True):
        return None, experts
    return active, experts


def with_dense(others: dict[str, Floats]) -> None:
    """Fill in N_active of models of one expert, which need not say twice what they have."""
    if {"params", "active_params", "experts"} <= others.keys():
        dense = np.isnan(others["active_params"]) & (others["experts"] <= 1)
        others["active_params"] = np.where(dense, others["params"], others["active_params"])


def planned_experts(planned: Sequence[Experiment]) -> Floats | None:
    """Experts for each that a unit visits, as the models' arguments say; ``None`` where they do not."""
    counts = []
    for e in planned:
        size = e.size if isinstance(e.size, Mapping) else {}
        values = {
            name: value
            for heading, value in {**e.model_kwargs, **size}.items()
            for name in ("experts", "experts_per_token")
            if rank(name, heading) and is_number(value)
        }
        counts.append(values.get("experts", math.nan) / values.get("experts_per_token", 1))
    each = np.array(counts, dtype=np.float64)
    return None if np.any(np.isnan(each)) else np.maximum(each, 1.0)
