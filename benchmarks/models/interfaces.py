"""Ways in which people write models, batches and steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from benchmarks.models.kinds import classes, kind, labelled, mlp_flops, named, points, words

V, T = 32, 12


def token_flops(w: int) -> float:
    """A table that is looked up and a head, at each of the positions."""
    return 6.0 * w * V * (T - 1)


def pairs() -> TensorDataset:
    rows = words()
    return TensorDataset(rows[:, :-1], rows[:, 1:])


class Bigram(nn.Module):
    """A table and a head; subclasses return what they like."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(V, width), nn.Linear(width, V, bias=False)

    def logits(self, idx: Tensor) -> Tensor:
        out: Tensor = self.head(self.table(idx))
        return out


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten())


def mlp(width: int, inputs: int = 8, outputs: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, outputs))


@kind("(logits, loss) of nanoGPT", token_flops, units=T - 1)
def nano() -> dict[str, Any]:
    class GPT(Bigram):
        def forward(self, idx: Tensor, targets: Tensor | None = None) -> Any:
            logits = self.logits(idx)
            return logits, None if targets is None else token_loss(logits, targets)

    return {"model_cls": GPT, "dataset": pairs()}


@kind("forward(x, y) -> loss", token_flops, units=T - 1)
def only_loss() -> dict[str, Any]:
    class Model(Bigram):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return token_loss(self.logits(x), y)

    return {"model_cls": Model, "dataset": pairs()}


@kind("forward(x, y) -> loss, by step_fn", token_flops, units=T - 1)
def own_step() -> dict[str, Any]:
    class Model(Bigram):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return token_loss(self.logits(x), y)

    def step(model: Any, batch: Any) -> tuple[Tensor, int]:
        return model(*batch) * batch[1].numel(), batch[1].numel()

    return {"model_cls": Model, "dataset": pairs(), "step_fn": step}


@kind("dicts with names of one's own", lambda w: mlp_flops(8, w, 4))
def names() -> dict[str, Any]:
    class Model(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.net = mlp(width)

        def forward(self, features: Tensor) -> Any:
            return self.net(features)

    x = points()
    return {
        "model_cls": Model,
        "dataset": named(features=x, species=classes(x)),
        "loss_fn": F.cross_entropy,
    }


@kind("a dict of losses", lambda w: mlp_flops(8, w, 8))
def many_losses() -> dict[str, Any]:
    """Two tasks, whose losses a step adds up."""

    class Model(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.body, self.kind, self.size = (
                nn.Linear(8, width),
                nn.Linear(width, 4),
                nn.Linear(width, 4),
            )

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            h = self.body(x).relu()
            return {"kind": self.kind(h), "size": self.size(h)}

    def loss(out: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(out["kind"], targets["kind"]) + F.mse_loss(
            out["size"], targets["size"]
        )

    x = points()
    rows = [
        (a, {"kind": b, "size": c}) for a, b, c in zip(x, classes(x), x[:, :4].tanh(), strict=True)
    ]
    return {"model_cls": Model, "dataset": rows, "loss_fn": loss}


@dataclass(frozen=True)
class Config:
    width: int = 8
    layers: int = 1


class Configured(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.net = mlp(config.width)

    def forward(self, x: Tensor) -> Any:
        return self.net(x)


@kind(
    "objects as sizes",
    lambda c: 1e4,
    sizes=(Config(16), Config(32)),
    refused="sizes: expected numbers, words or dicts.*Config",
)
def objects() -> dict[str, Any]:
    given = {"model_cls": Configured, "model_size_param": "config"}
    return {**given, "dataset": labelled(), "loss_fn": F.cross_entropy}


@kind("a factory of a configuration", lambda w: mlp_flops(8, w, 4))
def factory() -> dict[str, Any]:
    def make(width: int) -> Any:
        return Configured(Config(width))

    return {"model_cls": make, "dataset": labelled(), "loss_fn": F.cross_entropy}


class Residual(nn.Module):
    """An image model as timm writes them: paths dropped for each sample, a head of classes."""

    def __init__(self, embed_dim: int, depth: int, num_classes: int, drop_path_rate: float) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(8, embed_dim), nn.Linear(embed_dim, num_classes)
        self.blocks = nn.ModuleList(nn.Linear(embed_dim, embed_dim) for _ in range(depth))
        self.rate = drop_path_rate

    def forward(self, x: Tensor) -> Any:
        x = self.embed(x)
        for block in self.blocks:
            kept = x.new_empty(len(x), 1).bernoulli_(1 - self.rate) if self.training else 1.0
            x = x + block(x) * kept
        return self.head(x)


def create_model(model_name: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """A registry of names, whose defaults arguments replace."""
    depths = {"residual_tiny": 1, "residual_small": 2}
    if model_name not in depths:
        raise RuntimeError(f"Unknown model ({model_name})")
    defaults = {"embed_dim": 8, "depth": depths[model_name], "num_classes": 1000}
    return Residual(**{**defaults, "drop_path_rate": 0.0, **kwargs})


@kind("a factory by name (timm)", lambda w: mlp_flops(8, w, w, w, 4))
def registry() -> dict[str, Any]:
    return {
        "model_cls": create_model,
        "model_size_param": "embed_dim",
        "model_kwargs": {"model_name": "residual_small", "num_classes": 4, "drop_path_rate": 0.1},
        "dataset": labelled(),
        "loss_fn": nn.CrossEntropyLoss(label_smoothing=0.1),
    }


@kind("a dict of one loss", lambda w: mlp_flops(8, w, 4))
def one_loss() -> dict[str, Any]:
    class Model(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.net = mlp(width)

        def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            scores = self.net(x)
            return {"scores": scores, "objective": F.cross_entropy(scores, y)}

    return {"model_cls": Model, "dataset": labelled()}


@kind("parameters of the loss", lambda w: mlp_flops(8, w, 4), told="untrained_loss")
def tempered() -> dict[str, Any]:
    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, out: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(self.scale * out, y)

    return {"model_cls": mlp, "dataset": labelled(), "loss_fn": Loss()}


@kind(
    "two optimizers (GAN)",
    lambda w: 1e4,
    refused="step_fn: expected .* one optimizer.*not supported",
)
def gan() -> dict[str, Any]:
    class Gan(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.G, self.D = mlp(width, 4, 8), mlp(width, 8, 1)

    def optimizers(model: Any, hparams: Any) -> Any:
        return torch.optim.Adam(model.G.parameters()), torch.optim.Adam(model.D.parameters())

    def step(model: Any, batch: Any) -> Any:
        (x,) = batch
        fake = model.G(torch.randn(len(x), 4))
        real, false = model.D(x), model.D(fake.detach())
        d = F.softplus(-real).mean() + F.softplus(false).mean()
        g = F.softplus(-model.D(fake)).mean()
        return (d * len(x), g * len(x)), len(x)

    return {"model_cls": Gan, "dataset": TensorDataset(points()), "step_fn": step}
