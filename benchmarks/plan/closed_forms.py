"""Operations and models whose training FLOPs have a closed form, and what is counted for them.

Each case is (count, forward, backward): what the trace gave, and the closed forms. B samples, T
positions, widths in capitals. A multiply-add is two; inputs need no gradient unless said.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from flops_fit.examples.gpt import GPT, GPTConfig
from flops_fit.flops import TracedFlops, trace_flops

Case = tuple[TracedFlops, float, float]


def _meta(*shape: int, grad: bool = False) -> Tensor:
    return torch.empty(*shape, device="meta", requires_grad=grad)


def _ids(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.long, device="meta")


def _trace(model: nn.Module, *inputs: Tensor, pick: int | None = None) -> TracedFlops:
    model = model.to("meta")

    def forward() -> Any:
        out = model(*inputs)
        return (out if pick is None else out[pick]).sum()

    return trace_flops(forward, model)


def linear() -> Case:
    B, T, D, K = 3, 7, 10, 20
    each = 2 * B * T * D * K  # input, weight
    return _trace(nn.Linear(D, K), _meta(B, T, D, grad=True)), each, 2 * each


def mlp() -> Case:
    B, D, H, K = 5, 10, 20, 30
    model = nn.Sequential(nn.Linear(D, H), nn.ReLU(), nn.Linear(H, K))
    forward = 2 * B * (D * H + H * K)
    return _trace(model, _meta(B, D)), forward, 2 * forward - 2 * B * D * H


def gpt() -> Case:
    config = GPTConfig(d_model=64, num_layers=3, vocab_size=100)
    B, T = 2, 16
    total = B * T * config.flops_per_token(T)
    return _trace(GPT(config), _ids(B, T), pick=0), total / 3, 2 * total / 3


def vit() -> Case:
    """Patches of P², L layers of width D, class token, head of K: T = (S/P)² + 1 positions."""
    from flops_fit.examples import VisionTransformer

    B, S, P, D, L, K = 2, 32, 4, 64, 2, 10
    model = VisionTransformer(D, L, image_size=S, patch_size=P, num_classes=K)
    tokens = (S // P) ** 2
    T = tokens + 1
    patches = 2 * B * tokens * 3 * P**2 * D
    rest = 2 * B * (L * (12 * D**2 * T + 2 * T**2 * D) + D * K)
    return _trace(model, _meta(B, 3, S, S)), patches + rest, patches + 2 * rest


def cnn() -> Case:
    B, C, K, S = 2, 8, 10, 16
    model = nn.Sequential(
        nn.Conv2d(3, C, 3, padding=1),
        nn.Conv2d(C, 2 * C, 3, 2, 1),
        nn.Flatten(),
        nn.Linear(S * S // 4 * 2 * C, K),
    )
    first = 2 * B * S**2 * C * 3 * 9
    rest = 2 * B * (S // 2) ** 2 * 2 * C * C * 9 + 2 * B * (S // 2) ** 2 * 2 * C * K
    return _trace(model, _meta(B, 3, S, S)), first + rest, first + 2 * rest


def depthwise() -> Case:
    B, C, S, k = 2, 64, 8, 3
    each = 2 * B * C * S**2 * k**2
    layer = nn.Conv2d(C, C, k, padding=1, groups=C)
    return _trace(layer, _meta(B, C, S, S, grad=True)), each, 2 * each


def grouped() -> Case:
    B, C, K, G, T, k = 2, 12, 24, 4, 20, 5
    each = 2 * B * K * (C // G) * k * (T - k + 1)
    return _trace(nn.Conv1d(C, K, k, groups=G), _meta(B, C, T, grad=True)), each, 2 * each


def transposed() -> Case:
    """One product per input position and weight: out = (S − 1)·stride + k is wider."""
    B, C, K, G, S, k = 2, 8, 4, 2, 5, 3
    each = 2 * B * C * S**2 * (K // G) * k**2
    layer = nn.ConvTranspose2d(C, K, k, stride=2, groups=G)
    return _trace(layer, _meta(B, C, S, S, grad=True)), each, 2 * each


def _recurrent(kind: type[nn.RNNBase], gates: int) -> Case:
    """Layer l: 2·B·T·gates·H·(I_l + H). No gradient goes to the first states and the input."""
    B, T, D, H, L = 2, 5, 8, 16, 2
    inputs = gates * H * (D + (L - 1) * H)
    states = L * gates * H * H
    forward = 2 * B * T * (inputs + states)
    backward = 2 * forward - 2 * B * T * gates * H * D - 2 * B * states
    return _trace(kind(D, H, L, batch_first=True), _meta(B, T, D), pick=0), forward, backward


def lstm() -> Case:
    return _recurrent(nn.LSTM, 4)


def gru() -> Case:
    return _recurrent(nn.GRU, 3)


def rnn() -> Case:
    return _recurrent(nn.RNN, 1)


def attention() -> Case:
    B, H, T, S, D = 2, 4, 64, 32, 8
    q, k, v = _meta(B, H, T, D, grad=True), *(_meta(B, H, S, D, grad=True) for _ in range(2))
    forward = 2 * B * H * T * S * 2 * D
    counted = trace_flops(lambda: functional.scaled_dot_product_attention(q, k, v).sum())
    return counted, forward, 2 * forward


def multihead() -> Case:
    B, T, D = 2, 5, 8
    x = _meta(B, T, D, grad=True)
    forward = 2 * B * (4 * T * D * D + 2 * T * T * D)
    layer = nn.MultiheadAttention(D, 2, batch_first=True)
    return _trace(layer, x, x, x, pick=0), forward, 2 * forward


def tied() -> Case:
    """The head multiplies, though its weight is the embedding's: 2·B·T·D·V and twice that."""
    B, T, V, D = 2, 16, 100, 8

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(V, D)

        def forward(self, ids: Tensor) -> Tensor:
            return functional.linear(self.table(ids), self.table.weight)

    each = 2 * B * T * D * V
    return _trace(Tied(), _ids(B, T)), each, 2 * each


def bilinear() -> Case:
    """x·W, then its product with y; the three gradients hold the large contraction each."""
    B, D, E, K = 10, 8, 4, 3
    large = 2 * B * D * E * K
    forward = large + 2 * B * K * E
    backward = 3 * large + 2 * B * D * E + 2 * B * K * E
    counted = _trace(nn.Bilinear(D, E, K), _meta(B, D, grad=True), _meta(B, E, grad=True))
    return counted, forward, backward


def einsum() -> Case:
    B, T, D, K = 2, 3, 4, 5
    a, b = _meta(B, T, D, grad=True), _meta(B, D, K, grad=True)
    each = 2 * B * T * D * K
    return trace_flops(lambda: torch.einsum("btd,bdk->btk", a, b).sum()), each, 2 * each


def baddbmm() -> Case:
    B, T, D, K = 2, 3, 4, 5
    a, b = _meta(B, T, D, grad=True), _meta(B, D, K, grad=True)
    each = 2 * B * T * D * K
    return trace_flops(lambda: torch.baddbmm(_meta(B, T, K), a, b).sum()), each, 2 * each


def frozen() -> Case:
    """A frozen layer under a trained head: forward only, as no gradient is asked of it."""
    B, D, H, K = 5, 10, 20, 30
    model = nn.Sequential(nn.Linear(D, H).requires_grad_(False), nn.Linear(H, K))
    return _trace(model, _meta(B, D)), 2 * B * (D * H + H * K), 2 * B * H * K


def frozen_above() -> Case:
    """A frozen layer over a trained one: gradients pass through it, none of its weights."""
    B, D, H, K = 5, 10, 20, 30
    model = nn.Sequential(nn.Linear(D, H), nn.Linear(H, K).requires_grad_(False))
    return _trace(model, _meta(B, D)), 2 * B * (D * H + H * K), 2 * B * (D * H + H * K)


CASES: dict[str, Callable[[], Case]] = {
    case.__name__.replace("_", " "): case
    for case in (
        linear, mlp, gpt, vit, cnn, depthwise, grouped, transposed, lstm, gru, rnn, attention,
        multihead, tied, bilinear, einsum, baddbmm, frozen, frozen_above,
    )
}  # fmt: skip
