"""Layers and forward passes that count, train or copy otherwise than most."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint
from torch.utils.data import TensorDataset

from benchmarks.models.interfaces import Bigram, V, mlp, pairs, token_loss
from benchmarks.models.kinds import BATCH, classes, generator, kind, labelled, mlp_flops, points

SIDE = 8


def images() -> TensorDataset:
    x = points(2000, 3 * SIDE * SIDE)
    return TensorDataset(x.view(-1, 3, SIDE, SIDE), classes(x))


class Double(torch.autograd.Function):
    """A linear layer whose backward pass is written by hand."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x, weight)
        return x @ weight.T

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        return grad @ weight, grad.T @ x


@kind("a custom autograd function", lambda w: mlp_flops(8, w) + 2 * 8 * w + 6 * w * 4)
def custom() -> dict[str, Any]:
    """It computes the gradient of its input too, which is not needed."""

    class Model(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.weight, self.head = nn.Parameter(torch.randn(width, 8) / 3), nn.Linear(width, 4)

        def forward(self, x: Tensor) -> Any:
            return self.head(Double.apply(x, self.weight).relu())

    return {"model_cls": Model, "dataset": labelled(), "loss_fn": F.cross_entropy}


@kind(
    "convolutions and BatchNorm",
    lambda w: SIDE**2 * 9 * (4 * 3 * w + 6 * w * w) + 6 * w * 4,
    told="batch_norm",
)
def cnn() -> dict[str, Any]:
    def make(width: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4),
        )  # fmt: skip

    return {"model_cls": make, "dataset": images(), "loss_fn": F.cross_entropy}


@kind("depthwise convolutions", lambda w: SIDE**2 * (4 * 3 * w + 6 * 9 * w + 6 * w * w) + 6 * w * 4)
def depthwise() -> dict[str, Any]:
    def make(width: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, width, 1), nn.Conv2d(width, width, 3, padding=1, groups=width), nn.GELU(),
            nn.Conv2d(width, width, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4),
        )  # fmt: skip

    return {"model_cls": make, "dataset": images(), "loss_fn": F.cross_entropy}


@kind("spectral_norm", lambda w: mlp_flops(8, w, 4) + 50 * w / BATCH)
def spectral() -> dict[str, Any]:
    def make(width: int) -> nn.Module:
        first, last = nn.Linear(8, width), nn.Linear(width, 4)
        return nn.Sequential(parametrizations.spectral_norm(first), nn.ReLU(), last)

    return {"model_cls": make, "dataset": labelled(), "loss_fn": F.cross_entropy}


@kind("the older spectral_norm", lambda w: mlp_flops(8, w, 4) + 50 * w / BATCH)
def old_spectral() -> dict[str, Any]:
    """One step of the power iteration a batch: three products of the matrix with a vector, and a dot."""

    def make(width: int) -> nn.Module:
        return nn.Sequential(
            nn.utils.spectral_norm(nn.Linear(8, width)), nn.ReLU(), nn.Linear(width, 4)
        )

    return {"model_cls": make, "dataset": labelled(), "loss_fn": F.cross_entropy}


@kind("weight_norm", lambda w: mlp_flops(8, w, 4))
def weight_norm() -> dict[str, Any]:
    def make(width: int) -> nn.Module:
        return nn.Sequential(
            parametrizations.weight_norm(nn.Linear(8, width)), nn.ReLU(), nn.Linear(width, 4)
        )

    return {"model_cls": make, "dataset": labelled(), "loss_fn": F.cross_entropy}


@kind(
    "experts by hand",
    lambda w: mlp_flops(8, w) + 6 * w * 4 + 6 * 2 * w * w + 6 * w * 4,
    says="Declare active_params",
)
def experts() -> dict[str, Any]:
    """Each sample passes one of four experts of two layers, and a router."""

    class Moe(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.inner, self.router = nn.Linear(8, width), nn.Linear(width, 4)
            self.experts = nn.ModuleList(mlp(width, width, width) for _ in range(4))
            self.head = nn.Linear(width, 4)

        def forward(self, x: Tensor) -> Any:
            h = self.inner(x)
            gate, chosen = self.router(h).softmax(-1).max(-1)
            out = torch.zeros_like(h)
            for number, expert in enumerate(self.experts):
                rows = torch.where(chosen == number)[0]
                out[rows] = expert(h[rows])
            return self.head(out * gate.unsqueeze(-1))

    return {"model_cls": Moe, "dataset": labelled(), "loss_fn": F.cross_entropy}


@kind("tied weights", lambda w: 6 * w * V * 11, units=11)
def tied() -> dict[str, Any]:
    class Model(Bigram):
        def __init__(self, width: int) -> None:
            super().__init__(width)
            self.head.weight = self.table.weight

        def forward(self, idx: Tensor) -> Tensor:
            return self.logits(idx)

    return {"model_cls": Model, "dataset": pairs(), "loss_fn": token_loss}


@kind("buffers changed in forward (EMA)", lambda w: mlp_flops(8, w, 4))
def ema() -> dict[str, Any]:
    class Model(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(8, width), nn.Linear(width, 4)
            self.register_buffer("mean", torch.zeros(width))
            self.register_buffer("seen", torch.tensor(0))

        def forward(self, x: Tensor) -> Any:
            h = self.inner(x)
            if self.training:
                with torch.no_grad():
                    self.seen += 1
                    self.mean.lerp_(h.mean(0), 0.05)
            return self.head((h - self.mean).relu())

    return {"model_cls": Model, "dataset": labelled(), "loss_fn": F.cross_entropy}


class Three(nn.Module):
    """Three layers; subclasses pass the middle one as they like."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, width), nn.Linear(width, width), nn.Linear(width, 4)


class Blocks(nn.Module):
    """As many equal blocks as there are classes, each left out in training with a probability."""

    def __init__(self, width: int, dropped: float = 0.0) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(8, width), nn.Linear(width, 4)
        self.blocks = nn.ModuleList(mlp(width, width, width) for _ in range(4))
        self.dropped = dropped

    def forward(self, x: Tensor) -> Any:
        x = F.dropout(self.inner(x), self.dropped, self.training)
        for block in self.blocks:
            if not self.training or torch.rand(()) >= self.dropped:
                x = x + block(x)
        return self.head(x)


@kind("as many equal blocks as classes", lambda w: mlp_flops(8, w, 4) + 4 * 12 * w * w)
def blocks() -> dict[str, Any]:
    return {"model_cls": Blocks, "dataset": labelled(), "loss_fn": F.cross_entropy}


@kind(
    "blocks left out at random",
    lambda w: mlp_flops(8, w, 4) + 0.8 * 4 * 12 * w * w,
    within=0.05,
    says="draws how much it computes",
)
def left_out() -> dict[str, Any]:
    """2 % in the mean of 120 batches."""
    given = {"model_cls": Blocks, "model_kwargs": {"dropped": 0.2}}
    return {**given, "dataset": labelled(), "loss_fn": F.cross_entropy}


@kind("BatchNorm that stays in evaluation", lambda w: mlp_flops(8, w, 4))
def frozen_norm() -> dict[str, Any]:
    class Model(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.net = nn.Sequential(
                nn.Linear(8, width), nn.BatchNorm1d(width), nn.Linear(width, 4)
            )

        def train(self, mode: bool = True) -> Any:
            super().train(mode)
            self.net[1].eval()
            return self

        def forward(self, x: Tensor) -> Any:
            return self.net(x)

    return {"model_cls": Model, "dataset": labelled(), "loss_fn": F.cross_entropy}


@kind("checkpointing in the model", lambda w: mlp_flops(8, w, w, 4))
def recomputed() -> dict[str, Any]:
    class Model(Three):
        def forward(self, x: Tensor) -> Any:
            return self.c(checkpoint(self.b, self.a(x), use_reentrant=False))

    return {"model_cls": Model, "dataset": labelled(), "loss_fn": F.cross_entropy}


@kind("LoRA on a frozen base", lambda w: 80 * w + 224)
def lora() -> dict[str, Any]:
    """Of rank 4: a frozen weight has no gradient of its own, and passes one on where it must."""

    class Lora(nn.Module):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__()
            self.base = nn.Linear(inputs, outputs).requires_grad_(False)
            self.down, self.up = nn.Linear(inputs, 4, bias=False), nn.Linear(4, outputs, bias=False)

        def forward(self, x: Tensor) -> Any:
            return self.base(x) + self.up(self.down(x))

    def make(width: int) -> nn.Module:
        return nn.Sequential(Lora(8, width), nn.ReLU(), Lora(width, 4))

    return {"model_cls": make, "dataset": labelled(), "loss_fn": F.cross_entropy}


@kind("a branch that looks at a value", lambda w: mlp_flops(8, w, w, 4))
def branch() -> dict[str, Any]:
    class Model(Three):
        def forward(self, x: Tensor) -> Any:
            h = self.a(x)
            if x.abs().max() > 100:
                return self.c(h)
            return self.c(self.b(h).relu())

    return {"model_cls": Model, "dataset": labelled(), "loss_fn": F.cross_entropy}


@kind(
    "a random number of steps",
    lambda w: mlp_flops(8, w) + 4 * 6 * w * w + 6 * w * 4,
    within=0.1,
    says="draws how much it computes",
)
def loops() -> dict[str, Any]:
    """Three to five passes of a layer, drawn for each batch: 2 % in the mean of 120 of them."""

    class Model(Three):
        def forward(self, x: Tensor) -> Any:
            h = self.a(x)
            for _ in range(int(torch.randint(3, 6, ()))):
                h = h + self.b(h).tanh()
            return self.c(h)

    return {"model_cls": Model, "dataset": labelled(), "loss_fn": F.cross_entropy}


@kind("complex numbers", lambda w: 4 * (mlp_flops(8, w, 4)))
def complex_numbers() -> dict[str, Any]:
    """A complex multiply-add is four real ones."""

    def make(width: int) -> nn.Module:
        layers = (nn.Linear(8, width, dtype=torch.cfloat), nn.Linear(width, 4, dtype=torch.cfloat))
        return nn.Sequential(*layers)

    def loss(out: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(out.abs(), y)

    x = points()
    return {
        "model_cls": make,
        "dataset": TensorDataset(torch.complex(x, x.roll(1, 1)), classes(x)),
        "loss_fn": loss,
    }


class Fourier(nn.Module):
    """Lifts, multiplies the five lowest frequencies by a matrix each, and projects."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lift, self.project = nn.Linear(1, width), nn.Linear(width, 1)
        self.modes = nn.Parameter(torch.randn(width, width, 5, dtype=torch.complex64) / width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.lift(x).transpose(1, 2)
        low = torch.einsum("bik,iok->bok", torch.fft.rfft(h)[..., :5], self.modes)
        return self.project(torch.fft.irfft(low, n=h.shape[-1]).transpose(1, 2))


@kind(
    "a Fourier layer",
    lambda w: 16 * 2 * w * 2 + 5 * 8 * w * w * 3 + 16 * 2 * w * 3,
    says="no formula is known for aten._fft",
)
def fourier() -> dict[str, Any]:
    x = torch.randn(2000, 16, 1, generator=generator())
    return {
        "model_cls": Fourier, "dataset": TensorDataset(x, x.cumsum(1) / 4), "loss_fn": F.mse_loss,
    }  # fmt: skip


@kind("torch.compile around the model", lambda w: mlp_flops(8, w, 4))
def compiled() -> dict[str, Any]:
    def make(width: int) -> Any:
        return torch.compile(mlp(width), backend="aot_eager")

    return {"model_cls": make, "dataset": labelled(), "loss_fn": F.cross_entropy}
