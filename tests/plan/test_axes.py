"""A design crosses sizes with values of further arguments, at equal compute."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import flops_fit
from flops_fit import Grid
from flops_fit.errors import InputError


class Deep(nn.Sequential):
    """Linear layers; ``inner`` follows from the width."""

    def __init__(self, width: int, depth: int = 2, inner: int = 8) -> None:
        sizes = [16, *[width] * depth, inner, 4]
        super().__init__(*(nn.Linear(a, b, bias=False) for a, b in pairwise(sizes)))


def test_values_of_an_axis_go_with_neither_size_nor_budget(tmp_path: Path) -> None:
    """Each run has the compute of its budget, and a width that gives its N at its depth."""
    plan = flops_fit.plan_sweep(
        Deep, "width", {"inner": lambda width: width + 4}, loss_fn=nn.functional.cross_entropy,
        example_batch=(torch.zeros(2, 16), torch.zeros(2, dtype=torch.int64)),
        compute_budgets=[1e8, 3e8, 1e9, 3e9], batch_size=8,
        design=Grid(sizes_per_budget=5, axes={"depth": [1, 2, 4]}),
    )  # fmt: skip
    depths = np.array([e.size["depth"] for e in plan.experiments])
    assert len(depths) == 20
    assert set(depths) == {1, 2, 4}
    for e in plan.experiments:
        width, depth = e.size["width"], e.size["depth"]
        inner = (width + 4) ** 2
        assert e.params.total == 16 * width + (depth - 1) * width**2 + inner
        assert e.flops == pytest.approx(e.budget, rel=0.01)
    N = np.log([e.params.total for e in plan.experiments])
    for other in (N, np.log([e.budget for e in plan.experiments])):
        assert abs(np.corrcoef(np.log(depths), other)[0, 1]) < 0.2

    fit = flops_fit.fit_runs(
        flops_fit.run_sweep(plan, flops_fit.Mock(), output_dir=tmp_path, progress=False)
    )
    found = fit.axis("depth")
    assert list(found.excess) == [1, 2, 4]
    assert found.p_value > 0.01, "a simulated run does not know its depth"


def test_an_axis_has_several_values() -> None:
    with pytest.raises(InputError, match="two or more different values of depth"):
        Grid(axes={"depth": [2, 2]})


def test_a_size_that_no_width_has_is_named() -> None:
    """At 64 layers widths of 1 to 5 stand for all sizes, so that several ask for the same."""
    plan = flops_fit.plan_sweep(
        Deep, "width", loss_fn=nn.functional.cross_entropy,
        example_batch=(torch.zeros(2, 16), torch.zeros(2, dtype=torch.int64)),
        compute_budgets=[1e7, 1e8], batch_size=8, flops="6nd",
        design=Grid(sizes_per_budget=14, axes={"depth": [1, 64]}),
    )  # fmt: skip
    runs = {(e.budget, e.size["width"], e.size["depth"]) for e in plan.experiments}
    assert len(runs) == len(plan)
    (lost,) = [d.message for d in plan.diagnostics if d.code == "left_out"]
    assert "at 1e+07 FLOPs with {'depth': 64}: no size of its own" in lost
