"""A small decoder-only transformer whose size and cost have closed forms.

Rotary positions, pre-norm, a GELU MLP of 4·d, an untied head that starts at zero. No layer has a
bias and no norm has a gain:

    N = 12·L·d² + 2·V·d          L layers, width d, vocabulary V
    F = 6·(12·L·d² + V·d) + 12·L·T·d

F is the training FLOPs per token at context T: 6 per weight that is multiplied, which the embedding
is not, and full, not causal, attention (3 times table 1 of Kaplan et al. 2020).
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from flops_fit.errors import InputTypeError, ModelError

IGNORE_INDEX = -100
_MUP_HEAD = 8  # the head width at which both scales of attention are one


def _default_num_heads(d_model: int) -> int:
    """Heads of about 8, in wide models of d/16 to d/8 up to 128, whichever width divides d."""
    head_dim = min(max(8, (1 << d_model.bit_length() - 1) // 8), 128)
    widths = (head_dim * quarters // 4 for quarters in (4, 5, 6, 7))
    fitting = (d_model // width for width in widths if d_model % width == 0)
    if heads := next(fitting, None):
        return heads
    raise ModelError(
        f"d_model={d_model} does not divide into heads of {head_dim} to {head_dim * 7 // 4}: "
        f"use a multiple of {head_dim}, or give num_heads."
    )


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a :class:`GPT`.

    ModelError, a ``ValueError``, for a shape that cannot be built.

    ``d_model``, ``num_layers`` and ``vocab_size`` are width d, blocks L and vocabulary V, 256 for bytes.
    ``num_heads`` attention heads must divide ``d_model`` into even widths. By default heads are 8 wide (or
    10, 12, 14 where 8 does not divide ``d_model``); from d = 128 on twice that at each doubling, up to 128.
    ``max_seq_len`` is the longest context that ``forward`` accepts. It costs no parameters. The slowest
    rotation turns by about 1/``rope_base`` per token; 1000 suits tens to thousands. ``mup_attention`` takes
    attention logits q·k·√8/h in place of q·k/√h at head width h (Yang et al. 2022, definition 4.1), as keys
    come to resemble queries. Both are the same at heads of 8.
    """

    d_model: int = 64
    num_layers: int = 2
    num_heads: int | None = None
    vocab_size: int = 256
    max_seq_len: int = 1024
    rope_base: float = 1000.0
    mup_attention: bool = False

    def __post_init__(self) -> None:
        for name in ("d_model", "num_layers", "num_heads", "vocab_size", "max_seq_len"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ModelError(f"{name} must be at least 1, got {value}.")
        if self.d_model % (2 * self.heads):
            raise ModelError(
                f"Rotary positions need an even head width, got d_model={self.d_model} and "
                f"num_heads={self.heads}: use a width that is a multiple of {2 * self.heads}."
            )

    @property
    def heads(self) -> int:
        """The number of attention heads, chosen or given."""
        return self.num_heads or _default_num_heads(self.d_model)

    @property
    def head_dim(self) -> int:
        """The width of one attention head."""
        return self.d_model // self.heads

    def num_params(self) -> int:
        """N = 12·L·d² + 2·V·d, embedding and head included."""
        return 12 * self.num_layers * self.d_model**2 + 2 * self.vocab_size * self.d_model

    def flops_per_token(self, seq_len: int) -> int:
        """F = 6·(12·L·d² + V·d) + 12·L·T·d, training FLOPs per token at context ``seq_len``."""
        matmul = 12 * self.num_layers * self.d_model**2 + self.vocab_size * self.d_model
        return 6 * matmul + 12 * self.num_layers * seq_len * self.d_model


class _Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        d = config.d_model
        self.d_model, self.heads, self.head_dim = d, config.heads, config.head_dim
        # None leaves torch its own 1/√h.
        self.scale = math.sqrt(_MUP_HEAD) / self.head_dim if config.mup_attention else None
        self.qkv = nn.Linear(d, 3 * d, bias=False)
        self.proj = nn.Linear(d, d, bias=False)
        self.up = nn.Linear(d, 4 * d, bias=False)
        self.down = nn.Linear(4 * d, d, bias=False)
        self.experts: nn.Module | None = None  # in place of both

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.proj(self._attend(functional.layer_norm(x, (self.d_model,)), cos, sin))
        normed = functional.layer_norm(x, (self.d_model,))
        if self.experts is None:
            mixed: Tensor = self.down(functional.gelu(self.up(normed)))
        else:
            mixed = self.experts(normed)
        return x + mixed

    def _attend(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        B, T, d = x.shape
        qk, v = self.qkv(x).split((2 * d, d), dim=-1)
        # One rotation for queries and keys together, before heads and positions change places.
        qk = _rotate(qk.view(B, T, 2 * self.heads, self.head_dim), cos, sin)
        q, k = qk.transpose(1, 2).chunk(2, dim=1)
        v = v.view(B, T, self.heads, self.head_dim).transpose(1, 2)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)
        return y.transpose(1, 2).reshape(B, T, d)


class GPT(nn.Module):
    """Decoder-only language model of the shape ``config``, by default ``GPTConfig()``.

    Keywords are fields of :class:`GPTConfig` that differ from ``config``.

    >>> GPT(d_model=16).num_params()
    14336
    >>> GPT(GPTConfig(d_model=16), num_layers=4).num_params()
    20480
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, config: GPTConfig | None = None, **kwargs: Any) -> None:
        super().__init__()
        if config is not None and not isinstance(config, GPTConfig):
            raise InputTypeError(
                f"GPT takes a GPTConfig or keywords such as d_model=64, got {config!r}."
            )
        self.config = config = replace(config or GPTConfig(), **kwargs)
        self.embed = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.num_layers))
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        cos, sin = _rotary_tables(config)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        # All other weights start as torch's. A zero head makes the first loss ln V at every width.
        nn.init.zeros_(self.head.weight)

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Logits (B, T, V) of the next token, and their loss where targets (B, T) are given.

        Targets of −100 are not counted.
        """
        T = idx.shape[1]
        if self.config.max_seq_len < T:
            raise ModelError(
                f"The context is {T} tokens and max_seq_len is {self.config.max_seq_len}: "
                "build the model with a larger max_seq_len."
            )
        x = self.embed(idx)
        cos, sin = self.cos[:T], self.sin[:T]
        for block in self.blocks:
            x = block(x, cos, sin)
        logits: Tensor = self.head(functional.layer_norm(x, (self.config.d_model,)))
        return logits, None if targets is None else _cross_entropy(logits, targets)

    def num_params(self) -> int:
        """N, embedding and head included."""
        return sum(parameter.numel() for parameter in self.parameters())


@dataclass(frozen=True)
class GPTFactory:
    """Builds a :class:`GPT` from its width alone; travels to other processes."""

    num_layers: int = 2
    num_heads: int | None = None
    vocab_size: int = 256

    def __call__(self, d_model: int) -> GPT:
        """The model of this width."""
        return GPT(GPTConfig(d_model, self.num_layers, self.num_heads, self.vocab_size))


def gpt_loss_fn(outputs: tuple[Tensor, Tensor | None], labels: Tensor) -> Tensor:
    """Mean cross-entropy in nats over the labels that are not −100.

    ``outputs`` is what :class:`GPT` returns: logits (B, T, V) and a loss, which is not used.
    """
    logits, _ = outputs
    return _cross_entropy(logits, labels)


def create_model_for_scaling(
    target_params: float,
    *,
    vocab_size: int = 256,
    max_seq_len: int = 1024,
    device: torch.device | str | None = None,
) -> GPT:
    """Build a :class:`GPT` whose N is within 5 % of ``target_params``.

    Of the shapes within 2 % it takes the one whose width is nearest to 64 times its depth, else
    the nearest N. That is anything from about 5e4 on, embedding and head included; ModelError where no
    shape with this vocabulary comes within 5 %. On the device ``"meta"`` nothing is allocated.
    """
    if not (math.isfinite(target_params) and target_params > 0):
        raise ModelError(f"target_params must be positive and finite, got {target_params!r}.")

    def preference(shape: GPTConfig) -> tuple[float, float]:
        error = abs(shape.num_params() / target_params - 1)
        slenderness = abs(math.log(shape.d_model / (64 * shape.num_layers)))
        return (0.0, slenderness) if error <= 0.02 else (error, slenderness)

    config = min(_shapes_near(target_params, vocab_size, max_seq_len), key=preference)
    error = config.num_params() / target_params - 1
    if abs(error) > 0.05:
        raise ModelError(
            f"No GPT with a vocabulary of {vocab_size} comes within 5 % of {target_params:.4g} "
            f"parameters; the nearest has {config.num_params():,}. Ask for more parameters or "
            "use a smaller vocabulary."
        )
    with torch.device(device if device is not None else torch.get_default_device()):
        return GPT(config)


def _shapes_near(N: float, vocab_size: int, max_seq_len: int) -> list[GPTConfig]:
    """For each depth, the widths on either side of the root of 12·L·d² + 2·V·d = N."""
    shapes = []
    for num_layers in range(1, 257):
        a, b = 12 * num_layers, 2 * vocab_size
        width = (math.sqrt(b * b + 4 * a * N) - b) / (2 * a)
        step = min(max(8, 2 ** int(math.log2(max(width, 1))) // 8), 128)
        below = int(width // step) * step
        shapes += [
            GPTConfig(d, num_layers, vocab_size=vocab_size, max_seq_len=max_seq_len)
            for d in (below, below + step)
            if d > 0
        ]
    return shapes


def _rotary_tables(config: GPTConfig) -> tuple[Tensor, Tensor]:
    """Su et al. 2021, eq. 34, as (max_seq_len, 1, head_dim); i is paired to i + head_dim/2."""
    frequency = config.rope_base ** (-torch.arange(0, config.head_dim, 2) / config.head_dim)
    angle = torch.outer(torch.arange(config.max_seq_len), frequency)[:, None, :]
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (xᵢ, xᵢ₊ₕ) of the last axis, of width 2h, by its angle."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    flat = logits.reshape(-1, logits.shape[-1])
    return functional.cross_entropy(flat, targets.reshape(-1), ignore_index=IGNORE_INDEX)
