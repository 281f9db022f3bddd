"""The decoder-only transformer with a mixture of experts in place of each MLP."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from flops_fit.errors import ModelError
from flops_fit.examples.gpt import GPT, GPTConfig

_BALANCING = 1e-3  # what a bias moves by in a step


class _Experts(nn.Module):
    """The sum of the ``top_k`` experts of each token, weighed by a router.

    No loss balances them: a bias, which chooses and does not weigh, follows the load of each step (Wang et
    al. 2024, arXiv:2408.15664).
    """

    bias: Tensor

    def __init__(self, d: int, num_experts: int, top_k: int) -> None:
        super().__init__()
        self.top_k, width = top_k, 4 * d // top_k
        self.router = nn.Linear(d, num_experts, bias=False)
        self.mlps = nn.ModuleList(
            nn.Sequential(
                nn.Linear(d, width, bias=False), nn.GELU(), nn.Linear(width, d, bias=False)
            )
            for _ in range(num_experts)
        )
        self.register_buffer("bias", torch.zeros(num_experts))

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, -2)
        gates = self.router(tokens).sigmoid()
        chosen = (gates + self.bias).topk(self.top_k, dim=-1).indices
        out = torch.zeros_like(tokens)
        for i, mlp in enumerate(self.mlps):
            rows = (chosen == i).any(-1).nonzero().squeeze(-1)
            out = out.index_add(0, rows, mlp(tokens[rows]) * gates[rows, i, None])
        if self.training:
            load = functional.one_hot(chosen, len(self.mlps)).sum((0, 1)).to(self.bias)
            self.bias += _BALANCING * (load.mean() - load).sign()
        return out.view_as(x)


class MixtureGPT(GPT):
    """A :class:`~flops_fit.examples.GPT` with ``num_experts`` of which a token visits ``top_k``.

    Experts are 4·d/``top_k`` wide, so that a layer has 8·d²·(E/k − 1) + E·d parameters more than a dense
    one, of which a token meets the router's E·d. ModelError where ``top_k`` does not fit.

    >>> model = MixtureGPT(d_model=16, num_experts=4)
    >>> model.num_params(), model.active_params()
    (26752, 14464)
    """

    def __init__(
        self,
        config: GPTConfig | None = None,
        *,
        num_experts: int = 8,
        top_k: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(config, **kwargs)
        d = self.config.d_model
        if not 1 <= top_k <= num_experts or 4 * d % top_k:
            raise ModelError(
                f"top_k must be from 1 to num_experts={num_experts} and divide 4·d_model={4 * d}; "
                f"got {top_k}."
            )
        for block in self.blocks:
            del block.up, block.down
            block.experts = _Experts(d, num_experts, top_k)
        self.idle = 8 * d * d * (num_experts - top_k) // top_k * len(self.blocks)

    def active_params(self) -> int:
        """The parameters that one token meets."""
        return self.num_params() - self.idle
