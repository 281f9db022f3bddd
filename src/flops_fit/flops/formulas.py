"""Closed forms of single operations: FLOPs of one call, from its arguments and its result.

torch's are not used for convolutions, whose weight gradient they count as if dense in its groups, nor for
the backward pass of fused attention, where they count the scores twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

Formula = Callable[[Sequence[Any], Any], float]

MATRIX, CONVOLUTION, ATTENTION = "matrix products", "convolutions", "fused attention"


def _matmul(first: int) -> Formula:
    """2·…·m·k·n of (…, m, k) by (…, k, n), the operands at ``first`` and the place after it."""

    def flops(args: Sequence[Any], out: Any) -> float:
        a, b = args[first], args[first + 1].shape
        entries = a._nnz() if a.is_sparse else math.prod(a.shape)  # of a sparse one those stored
        return 2.0 * int(entries) * int(b[-1] if len(b) > 1 else 1)

    return flops


def _grouped_mm(args: Sequence[Any], out: Any) -> float:
    """2·T·k·n of (T, k) by (E, k, n), 2·m·T·n of (m, T) by (T, n), 2·m·k·T of (E, m, k) by (k, T)."""
    a, b = args[0].shape, args[1].shape
    rows, columns = (a[1], math.prod(b)) if len(a) == 3 and len(b) == 2 else (math.prod(a), b[-1])
    return 2.0 * int(rows) * int(columns)


def _convolution(args: Sequence[Any], out: Any) -> float:
    """2 · outputs · weights per output channel, of one group; of a transposed one, 2 · inputs · weights."""
    positions = args[0].shape if args[6] else out.shape
    return 2.0 * int(math.prod(positions) * math.prod(args[1].shape[1:]))


def _convolution_backward(args: Sequence[Any], out: Any) -> float:
    """One forward pass for each requested gradient, of input and weight."""
    grad, x, weight = (args[i].shape for i in range(3))
    positions = x if args[7] else grad
    passes = bool(args[10][0]) + bool(args[10][1])
    return 2.0 * passes * int(math.prod(positions) * math.prod(weight[1:]))


def _attention(q: int, passes: float = 1.0) -> Formula:
    """2·b·h·s_q·s_k·(d_q + d_v): scores, and their product with the values, nothing masked.

    Backward it is twice the forward pass; scores that a kernel computes anew are no work of the model.
    """

    def flops(args: Sequence[Any], out: Any) -> float:
        query, key, value = (args[q + i].shape for i in range(3))
        pairs = math.prod(query[:-1]) * key[-2]
        return 2.0 * passes * int(pairs) * int(query[-1] + value[-1])

    return flops


def _trilinear(args: Sequence[Any], out: Any) -> float:
    """Σ a·b·c over broadcast axes, pair by pair; a pair that sums no axis is element-wise."""
    expanded = [set(dims) for dims in args[3:6]]
    summed, rank = set(args[6]), args[0].dim() + len(expanded[0])
    size = [1] * rank
    axes = [set(range(rank)) - dims for dims in expanded]
    for tensor, own in zip(args[:3], axes, strict=True):
        for axis, length in zip(sorted(own), tensor.shape, strict=True):
            size[axis] = length
    first = summed - axes[2]
    left = axes[0] | axes[1]
    rest = (left - first) | axes[2]
    cost = 2.0 * math.prod(size[i] for i in left) if first else 0.0
    return cost + (2.0 * math.prod(size[i] for i in rest) if summed - first else 0.0)


_FUSED = [f"_scaled_dot_product_{k}attention" for k in ("efficient_", "flash_", "cudnn_")]
_FUSED.append("_scaled_dot_product_flash_attention_for_cpu")

FORMULAS: dict[str, Formula] = {
    **{f"aten.{op}": _matmul(0) for op in
       ("mm", "bmm", "mv", "dot", "vdot", "_int_mm", "_scaled_mm", "_scaled_mm_v2", "_sparse_mm")},
    **{f"aten.{op}": _matmul(1) for op in ("_addmm_activation", "_sparse_addmm")},
    **{f"aten.{op}{end}": _matmul(1) for op in ("addmm", "addbmm", "baddbmm", "addmv") for end in ("", "_")},
    **{f"aten.{op}": _grouped_mm for op in ("_grouped_mm", "_scaled_grouped_mm", "_scaled_grouped_mm_v2")},
    "transformers.grouped_mm_fallback": _grouped_mm,
    "aten._trilinear": _trilinear,
    **{f"aten.{op}": _convolution for op in ("convolution", "_convolution", "convolution_overrideable")},
    "aten.convolution_backward": _convolution_backward,
    "aten.conv_tbc": lambda args, out: 2.0 * int(math.prod(out.shape) * math.prod(args[1].shape[:2])),
    **{f"aten.{op}": _attention(0) for op in _FUSED},
    **{f"aten.{op}_backward": _attention(1, passes=2.0) for op in _FUSED},
}  # fmt: skip
"""FLOPs of one call from its arguments and its result, by the name of the operation."""

KINDS: dict[str, str] = {
    name: CONVOLUTION if "conv" in name else ATTENTION if "attention" in name else MATRIX
    for name in FORMULAS
}

_FREE = (
    "linalg_vector_norm", "linalg_cross", "linalg_diagonal", "_to_sparse", "_sparse_coo_tensor",
)  # fmt: skip
_HEAVY = ("fft", "linalg", "cdist", "sparse", "rnn", "_flex", "inverse", "svd", "cholesky")
_WORDS = frozenset(
    ("mm", "matmul", "linear", "conv", "conv3d", "convolution", "attention", "transformer")
)
_PLAIN = ("aten", "prim", "prims", "profiler", "_c10d_functional", "c10d", "inductor")


def is_unknown_work(name: str) -> bool:
    """Whether an operation without a formula may multiply: a custom one, an FFT, a solver, a product."""
    namespace, _, op = name.partition(".")
    heavy = any(part in op for part in _HEAVY) and not op.startswith(_FREE)
    return namespace not in _PLAIN or heavy or not _WORDS.isdisjoint(op.split("_"))
