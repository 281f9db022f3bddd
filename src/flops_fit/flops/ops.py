"""The closed form of every operation that multiplies: its FLOPs from its shapes.

A multiply-add counts two, as torch counts it. Additions of biases, softmax, norms and other
element-wise work are left out. torch's own formulas serve for what has none here, such as kernels
that a user registered with ``torch.utils.flop_counter.register_flop_formula``. They are not used
for convolutions, whose weight gradient they count as if it were dense in its groups (a depthwise
layer of 64 channels 65 times its forward pass), nor for the backward pass of fused attention,
where they count the scores a second time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

Shape = Sequence[int]
Formula = Callable[[Sequence[Any], Any], float]

MATRIX, CONVOLUTION, ATTENTION = "matrix products", "convolutions", "fused attention"


def _matmul(first: int) -> Formula:
    """2·…·m·k·n of (…, m, k) by (…, k, n), the operands at ``first`` and the place after it."""

    def flops(args: Sequence[Any], out: Any) -> float:
        a, b = args[first].shape, args[first + 1].shape
        columns = b[-1] if len(b) > 1 else 1
        return 2.0 * int(math.prod(a)) * int(columns)

    return flops


def _addbmm(args: Sequence[Any], out: Any) -> float:
    return _matmul(1)(args, out)


def _grouped_mm(args: Sequence[Any], out: Any) -> float:
    """Rows in groups, each by a matrix of its own: every row is multiplied once.

    (T, k) by (E, k, n) is 2·T·k·n, (m, T) by (T, n) in groups of T is 2·m·T·n, and (E, m, k) by
    (k, T) is 2·m·k·T.
    """
    a, b = args[0].shape, args[1].shape
    rows, columns = (a[1], math.prod(b)) if len(a) == 3 and len(b) == 2 else (math.prod(a), b[-1])
    return 2.0 * int(rows) * int(columns)


def _convolve(x: Shape, weight: Shape, out: Shape, transposed: bool) -> float:
    """2 · outputs · weights per output channel; of a transposed one, of inputs.

    A weight is (c_out, c_in/groups, *kernel), transposed (c_in, c_out/groups, *kernel), so groups
    are in its shape. Multiplications by padding count, as the kernels make them.
    """
    positions = x if transposed else out
    return 2.0 * math.prod(positions) * math.prod(weight[1:])


def _convolution(args: Sequence[Any], out: Any) -> float:
    return _convolve(args[0].shape, args[1].shape, out.shape, bool(args[6]))


def _convolution_backward(args: Sequence[Any], out: Any) -> float:
    """One forward pass for each requested gradient, of input and weight."""
    grad, x, weight = (args[i].shape for i in range(3))
    requested = args[10]
    return (bool(requested[0]) + bool(requested[1])) * _convolve(x, weight, grad, bool(args[7]))


def _attention(q: int) -> Formula:
    """2·b·h·s_q·s_k·(d_q + d_v): scores, and their product with the values, nothing masked."""

    def flops(args: Sequence[Any], out: Any) -> float:
        query, key, value = (args[q + i].shape for i in range(3))
        pairs = math.prod(query[:-1]) * key[-2]
        return 2.0 * int(pairs) * int(query[-1] + value[-1])

    return flops


def _attention_backward(args: Sequence[Any], out: Any) -> float:
    """Twice the forward pass; scores that a kernel computes anew are no work of the model."""
    return 2.0 * _attention(1)(args, out)


def _trilinear(args: Sequence[Any], out: Any) -> float:
    """Σ a·b·c over broadcast axes, pair by pair; a pair that sums no axis is element-wise.

    ``nn.Bilinear`` (B rows, I × J to O) is 2·B·O·J·(I + 1): first x·W, then its product with y.
    """
    expanded = [set(dims) for dims in args[3:6]]
    summed, rank = set(args[6]), args[0].dim() + len(expanded[0])
    size = [1] * rank
    axes = [set(range(rank)) - dims for dims in expanded]
    for tensor, own in zip(args[:3], axes, strict=True):
        for axis, length in zip(sorted(own), tensor.shape, strict=True):
            size[axis] = length
    first = summed - axes[2]
    left = axes[0] | axes[1]
    cost = 2.0 * math.prod(size[i] for i in left) if first else 0.0
    second = summed - first
    rest = (left - first) | axes[2]
    return cost + (2.0 * math.prod(size[i] for i in rest) if second else 0.0)


_FUSED = [f"_scaled_dot_product_{k}attention" for k in ("efficient_", "flash_", "cudnn_")]
_FUSED.append("_scaled_dot_product_flash_attention_for_cpu")

FORMULAS: dict[str, Formula] = {
    "aten.mm": _matmul(0),
    "aten.bmm": _matmul(0),
    "aten.mv": _matmul(0),
    "aten.dot": _matmul(0),
    "aten.vdot": _matmul(0),
    "aten._int_mm": _matmul(0),
    "aten._scaled_mm": _matmul(0),
    "aten._grouped_mm": _grouped_mm,
    "aten._scaled_grouped_mm": _grouped_mm,
    **{f"aten.{op}{suffix}": _matmul(1) for op in ("addmm", "baddbmm", "addmv") for suffix in ("", "_")},
    "aten._addmm_activation": _matmul(1),
    "aten.addbmm": _addbmm,
    "aten.addbmm_": _addbmm,
    "aten._trilinear": _trilinear,
    "aten.convolution": _convolution,
    "aten._convolution": _convolution,
    "aten.convolution_overrideable": _convolution,
    "aten.convolution_backward": _convolution_backward,
    **{f"aten.{op}": _attention(0) for op in _FUSED},
    **{f"aten.{op.removesuffix('_for_cpu')}_backward": _attention_backward for op in _FUSED[:3]},
    "aten._scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
}  # fmt: skip
"""FLOPs of one call from its arguments and its result, by the name of the operation."""

KINDS: dict[str, str] = {
    name: CONVOLUTION if "convolution" in name else ATTENTION if "attention" in name else MATRIX
    for name in FORMULAS
}

_HEAVY = (
    "fft",
    "linalg",
    "_cdist",
    "cdist",
    "sparse",
    "rnn",
    "_flex",
    "inverse",
    "svd",
    "cholesky",
)
_PLAIN = ("aten", "prim", "prims", "profiler", "_c10d_functional", "c10d", "inductor")


def is_unknown_work(name: str) -> bool:
    """Whether an operation without a formula may multiply: a custom one, an FFT, a solver."""
    namespace, _, op = name.partition(".")
    return namespace not in _PLAIN or any(part in op for part in _HEAVY)
