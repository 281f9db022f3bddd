"""A design crosses sizes with values of further arguments, at equal compute."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import flops_fit
from flops_fit import Grid
from flops_fit.data import split_data
from flops_fit.errors import InputError, InputTypeError
from flops_fit.execute import PoolExecutor
from flops_fit.train import Trainer


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


TARGETS = torch.arange(4).repeat(500)
CENTRES = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))


def mixed(share: float, size: int = 800) -> torch.utils.data.TensorDataset:
    """Points around their class's centre; a share of them has a class at random."""
    generator = torch.Generator().manual_seed(1)
    points = CENTRES[TARGETS] + torch.randn(len(TARGETS), 16, generator=generator)
    random = torch.randint(4, TARGETS.shape, generator=generator)
    spoilt = torch.rand(len(TARGETS), generator=generator) < share
    targets = torch.where(spoilt, random, TARGETS)
    size = size // 2 if share == 0.8 else size
    return torch.utils.data.TensorDataset(points[:size], targets[:size])


CLEAN = torch.utils.data.Subset(mixed(0, 4000), range(1600, 2000))
SHARES: dict[str, Any] = {
    "model_cls": Deep, "model_size_param": "width", "dataset": mixed, "eval_dataset": CLEAN,
    "loss_fn": nn.functional.cross_entropy, "compute_budgets": [5e5, 1e6, 2e6], "batch_size": 16,
    "hparams": {"lr": 0.01}, "design": Grid(sizes_per_budget=6, axes={"share": [0, 0.4, 0.8]}),
}  # fmt: skip


def test_the_data_of_each_run_follows_an_axis(tmp_path: Path) -> None:
    """Each run has the loss of the same run alone on its data; all are judged on the same samples."""
    plan = flops_fit.plan_sweep(**SHARES)
    assert {e.size["share"] for e in plan.experiments} == {0, 0.4, 0.8}
    for e in plan.experiments:
        samples = 400 if e.size["share"] == 0.8 else 800
        assert e.epochs == pytest.approx(e.steps * e.batch_size / samples)
    here = flops_fit.run_sweep(plan, output_dir=tmp_path / "here", progress=False)
    pool = PoolExecutor(2)
    runs = flops_fit.run_sweep(plan, output_dir=tmp_path / "pool", executor=pool, progress=False)
    assert [run.loss for run in runs] == [run.loss for run in here]
    found = flops_fit.fit_runs(here).axis("share")
    assert list(found.excess) == [0, 0.4, 0.8]
    assert found.best == 0

    spoilt = next(run for run in here if run.experiment.size["share"] == 0.8)
    trainer = plan.task
    assert isinstance(trainer, Trainer)
    alone = replace(trainer, data=split_data(mixed(0.8), CLEAN)[0], data_axes=None)
    assert alone(spoilt.experiment).loss == spoilt.loss


def test_other_data_are_another_sweep() -> None:
    def others(share: float) -> Any:
        return mixed(share / 2)

    plans = [flops_fit.plan_sweep(**{**SHARES, "dataset": data}) for data in (mixed, others)]
    ids = [{e.id for e in plan.experiments} for plan in plans]
    assert ids[0].isdisjoint(ids[1])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"eval_dataset": None}, "same held-out samples"),
        ({"design": Grid(axes={"depth": [1, 2]})}, r"one of \['share'\].*axes are \['depth'\]"),
        ({"design": "adaptive"}, "axes are"),
        ({"dataset": lambda: CLEAN}, "none of them"),
        ({"dataset": lambda share: [(torch.zeros(4 + int(share)), 0)] * 99, "eval_dataset": CLEAN,
          "design": Grid(axes={"share": [0, 1]})}, "one shape"),
        ({"dataset": lambda share: {"a": share}}, "expected a torch Dataset"),
    ],
)  # fmt: skip
def test_data_that_cannot_be_an_axis_is_told(changes: dict[str, Any], words: str) -> None:
    with pytest.raises((InputError, InputTypeError), match=words):
        flops_fit.plan_sweep(**{**SHARES, **changes})


def test_a_mock_sweep_needs_no_data(tmp_path: Path) -> None:
    """The share goes to no model."""
    result = flops_fit.find_optimal(
        **{**SHARES, "compute_budgets": [1e9, 3e9, 1e10, 3e10]}, mode="mock",
        output_dir=tmp_path, progress=False,
    )  # fmt: skip
    assert {run.experiment.size["share"] for run in result.runs} == {0, 0.4, 0.8}
