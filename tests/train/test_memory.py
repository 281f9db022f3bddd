"""What a run needs in memory is known before any of it is taken."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flops_fit import TrainingConfig, plan_sweep
from flops_fit.objective import Objective
from flops_fit.train import memory
from flops_fit.train.memory import memory_of
from tests.conftest import MLP, Blobs, cross_entropy
from tests.train._ranks import Deep, masked


def test_activations_are_what_the_backward_pass_keeps() -> None:
    """By hand, in float32: each layer's input, and what its non-linearity and the loss keep."""
    model = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 4))
    batch = torch.zeros(8, 6), torch.zeros(8, dtype=torch.int64)
    found = memory_of(model, Objective(cross_entropy), batch, 80, 1, recomputed=False)
    by_hand = 4 * (6 + 10 + 4) + 8 + (4 + 8) / 8  # inputs, a label; weight and count of the loss
    assert found.activations / 80 == pytest.approx(by_hand)
    assert found.state == 16 * (70 + 44)
    model[0].requires_grad_(False)
    assert memory.state_bytes(model) == 4 * 70 + 16 * 44
    assert found.layer == 0


def test_cut_over_ranks_a_rank_holds_its_part_and_one_layer() -> None:
    model = Deep(8)
    batch = torch.zeros(2, 6, dtype=torch.int64), torch.zeros(2, 6, dtype=torch.int64)
    whole, cut = (memory_of(model, Objective(masked), batch, 4, r, r > 1) for r in (1, 4))
    assert cut.state == whole.state / 4
    assert cut.layer == 8 * sum(p.numel() for n, p in model.named_parameters() if "layers" not in n)
    assert cut.activations == pytest.approx(whole.activations / 3)


def test_what_is_too_large_is_said_at_planning_and_takes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "device_bytes", lambda device: 1000.0)
    plan = plan_sweep(
        MLP, "width", {}, Blobs(), cross_entropy, [1e7], sizes=[4, 8],
        training=TrainingConfig(sharding="fsdp"),
    )  # fmt: skip
    said = next(d for d in plan.diagnostics if d.code == "memory")
    assert said.severity == "warning"
    assert "sharding='fsdp' on several ranks" in said.action
    task = plan.task
    assert task is not None
    run = task(plan.experiments[-1])
    assert (run.state, run.seconds < 1) == ("oom", True)
    assert "on each rank, and cpu has 1e-06 GB" in run.reason
