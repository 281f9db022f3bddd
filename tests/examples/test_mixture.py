"""The GPT with experts: what its closed forms say, what a token meets, and how loads even out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import flops_fit
from flops_fit.errors import ModelError
from flops_fit.examples import GPT, GPTConfig, MixtureGPT, gpt_loss_fn
from flops_fit.model import count_params


def tokens(batch: int = 4, length: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (batch, length), generator=torch.Generator().manual_seed(seed))


def counted_flops(model: GPT) -> int:
    with FlopCounterMode(display=False) as counter:
        gpt_loss_fn(model(tokens()), tokens()).backward()
    return int(counter.get_total_flops())


@pytest.mark.parametrize(("experts", "top_k"), [(1, 1), (4, 1), (8, 2), (6, 4)])
def test_closed_forms_are_the_counts(experts: int, top_k: int) -> None:
    """N = 24d² + 512d and the routers, N_total with the idle experts; F is that of N_active."""
    dense, model = GPT(d_model=16), MixtureGPT(d_model=16, num_experts=experts, top_k=top_k)
    counted, routers = count_params(model), 2 * 16 * experts
    assert counted.active == dense.num_params() + routers
    assert counted.total == counted.active + 2 * 8 * 16**2 * (experts / top_k - 1)
    assert counted_flops(model) - counted_flops(dense) == 4 * 16 * 6 * routers


def test_a_token_meets_what_is_counted() -> None:
    """The parameters with a gradient of one token are the active ones of the experts that it visits."""
    torch.manual_seed(0)
    model = MixtureGPT(d_model=16, num_experts=4, top_k=2, num_layers=1)
    torch.nn.init.normal_(model.head.weight, std=0.1)
    gpt_loss_fn(model(tokens(1, 1)), tokens(1, 1, 1)).backward()
    used = [e for e in model.blocks[0].experts.mlps if any(p.grad.any() for p in e.parameters())]
    assert len(used) == 2


def test_it_sees_only_the_past() -> None:
    model = MixtureGPT(d_model=16, num_experts=4).eval()
    torch.nn.init.normal_(model.head.weight, std=0.1)
    idx = tokens()
    later = idx.clone()
    later[:, 8:] = 0
    assert torch.allclose(model(idx)[0][:, :8], model(later)[0][:, :8], atol=1e-6)


def test_the_bias_evens_out_a_load_in_training_alone() -> None:
    torch.manual_seed(0)
    block = MixtureGPT(d_model=16, num_experts=4, num_layers=1).blocks[0].experts
    x = torch.randn(512, 16) + 1.0

    def spread() -> float:
        chosen = (block.router(x).sigmoid() + block.bias).argmax(-1)
        return float(torch.bincount(chosen, minlength=4).max() / 512)

    before = spread()
    block.eval()(x)
    assert not block.bias.any()
    block.train()
    for _ in range(300):
        block(x)
    assert before > 0.4
    assert spread() < 0.3


@pytest.mark.parametrize(
    "wrong", [{"num_experts": 2, "top_k": 3}, {"top_k": 0}, {"num_experts": 0}]
)
def test_shapes_that_cannot_be_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ModelError, match="top_k"):
        MixtureGPT(d_model=16, **wrong)


def test_a_sweep_counts_its_experts(tmp_path: Path) -> None:
    """N_active, N_total and F of a plan are the closed forms, and its runs say how many experts there are."""
    x = tokens(400, 17)
    plan = flops_fit.plan_sweep(
        MixtureGPT, "d_model", {"num_experts": 4, "top_k": 2, "num_layers": 1},
        dataset=torch.utils.data.TensorDataset(x[:, :-1], x[:, 1:]), loss_fn=gpt_loss_fn,
        compute_budgets=[2e8, 4e8], sizes=[8, 12], batch_size=4,
    )  # fmt: skip
    assert not [d for d in plan.diagnostics if d.code == "silent_experts"]
    for e in plan.experiments:
        d = e.size
        dense = GPTConfig(d, num_layers=1)
        assert e.params.active == dense.num_params() + 4 * d
        assert e.params.total == e.params.active + 8 * d * d
        assert e.flops_per_unit == pytest.approx(dense.flops_per_token(16) + 6 * 4 * d, rel=1e-6)
    table = flops_fit.RunTable.read(flops_fit.run_sweep(plan, output_dir=tmp_path, progress=False))
    assert table.experts is not None
    assert len(plan.experiments) == 4
    assert table.experts.tolist() == [2.0] * 4
    assert table.active_params is not None
    assert table.active_params.tolist() == [float(e.params.active) for e in plan.experiments]
