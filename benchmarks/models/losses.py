"""Losses that are no plain mean, that draw random numbers, or that start where little can be learnt."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.models.interfaces import Bigram, mlp
from benchmarks.models.kinds import generator, kind, labelled, mlp_flops, points, words

V, T = 32, 12


def tower_flops(w: int) -> float:
    """Two towers, and of each batch of 8 the products of all pairs, whose towers' outputs need gradients."""
    return 2 * mlp_flops(8, w, 16) + 6 * 16 * 8


class Towers(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.image, self.text = mlp(width, 8, 16), mlp(width, 8, 16)
        self.scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        a, b = F.normalize(self.image(image), dim=-1), F.normalize(self.text(text), dim=-1)
        logits: Tensor = self.scale.exp() * a @ b.T
        return logits


@kind("contrastive pairs (CLIP)", tower_flops, told="whole_batch_loss")
def clip() -> dict[str, Any]:
    def step(model: Any, batch: Any) -> tuple[Tensor, int]:
        logits = model(*batch)
        own = torch.arange(len(logits))
        loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
        return loss * len(logits), len(logits)

    x = points()
    return {"model_cls": Towers, "dataset": TensorDataset(x, x.roll(3, 1).tanh()), "step_fn": step}


@kind(
    "images and captions (open_clip)",
    lambda w: mlp_flops(8, w, 16) + 6 * w * 16 + 6 * 16 * 8,
    told="whole_batch_loss",
)
def captions() -> dict[str, Any]:
    """A dict of features and their scale, the loss outside; words of a caption are no targets."""

    class Clip(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.image = mlp(width, 8, 16)
            self.table, self.text = nn.Embedding(V, width), nn.Linear(width, 16)
            self.logit_scale = nn.Parameter(torch.tensor(math.log(10.0)))

        def forward(self, image: Tensor, text: Tensor) -> dict[str, Tensor]:
            features = self.image(image), self.text(self.table(text).mean(1))
            first, second = (F.normalize(f, dim=-1) for f in features)
            scale = self.logit_scale.exp()
            return {"image_features": first, "text_features": second, "logit_scale": scale}

    def step(model: Any, batch: Any) -> tuple[Tensor, int]:
        out = model(*batch)
        logits = out["logit_scale"] * out["image_features"] @ out["text_features"].T
        own = torch.arange(len(logits))
        loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
        return loss * len(logits), len(logits)

    return {"model_cls": Clip, "dataset": TensorDataset(points(), words()), "step_fn": step}


@kind(
    "views within a batch (SimCLR)",
    lambda w: 2 * mlp_flops(8, w, 16) + 6 * 16 * 32,
    told="whole_batch_loss",
)
def simclr() -> dict[str, Any]:
    def step(model: Any, batch: Any) -> tuple[Tensor, int]:
        (x,) = batch
        n = len(x)
        views = torch.cat([x + 0.1 * torch.randn_like(x), x + 0.1 * torch.randn_like(x)])
        z = F.normalize(model(views), dim=-1)
        logits = (z @ z.T / 0.5).masked_fill(torch.eye(2 * n, dtype=torch.bool), -1e9)
        loss = F.cross_entropy(logits, torch.arange(2 * n).roll(n))
        return loss * n, n

    return {
        "model_cls": lambda width: mlp(width, 8, 16),
        "dataset": TensorDataset(points()),
        "step_fn": step,
    }


@kind("root of the mean square", lambda w: mlp_flops(8, w, 1), told="loss_no_mean")
def root() -> dict[str, Any]:
    x = points()
    y = x[:, :1].tanh() + 0.5 * torch.randn(len(x), 1, generator=generator(2))

    def rmse(out: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(out, target).sqrt()

    return {
        "model_cls": lambda width: mlp(width, 8, 1),
        "dataset": TensorDataset(x, y),
        "loss_fn": rmse,
    }


@kind("class weights", lambda w: mlp_flops(8, w, 4), told="loss_no_mean")
def weighted() -> dict[str, Any]:
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 1.0, 4.0, 20.0]))
    return {"model_cls": mlp, "dataset": labelled(), "loss_fn": loss}


class Words(Bigram):
    def forward(self, idx: Tensor) -> Tensor:
        return self.logits(idx)


def texts(padding: int, fixed: bool) -> Any:
    """Rows of 4 to 12 words, padded to the longest of a batch, or all to 12."""
    rows = [row[: 4 + i % 9] for i, row in enumerate(words())]

    def collate(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
        y = pad_sequence(rows, batch_first=True, padding_value=padding)
        y = F.pad(y, (0, T - y.shape[1]), value=padding) if fixed else y
        return y[:, :-1].clamp(min=0), y[:, 1:]

    return DataLoader(rows, collate_fn=collate)  # type: ignore[arg-type]


def ignoring(index: int) -> Any:
    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=index)

    return loss


@kind(
    "an ignore_index of one's own",
    lambda w: 6 * w * V * (T - 1),
    units=T - 1,
    told="ignored_targets loss_no_mean",
)
def ignored() -> dict[str, Any]:
    return {"model_cls": Words, "dataset": texts(0, True), "loss_fn": ignoring(0)}


@kind("the same, counted by count_fn", lambda w: 6 * w * V * (T - 1), units=7.0, told="lengths")
def counted() -> dict[str, Any]:
    return {
        "model_cls": Words, "dataset": texts(0, True), "loss_fn": ignoring(0),
        "count_fn": lambda batch: (batch[1] != 0).sum(),
    }  # fmt: skip


LONGEST = (
    8 + 3 - sum((k / 9) ** 8 for k in range(1, 9))
)  # E max of 8 lengths from 4 to 12, less one


@kind(
    "padding in the mean",
    lambda w: 6 * w * V * LONGEST,
    units=LONGEST,
    told="units_of_batches lengths",
)
def padding() -> dict[str, Any]:
    return {"model_cls": Words, "dataset": texts(0, False), "loss_fn": ignoring(-100)}


@kind("ragged text, collated", lambda w: 6 * w * V * LONGEST, units=7.0, told="lengths")
def ragged() -> dict[str, Any]:
    return {"model_cls": Words, "dataset": texts(-100, False), "loss_fn": ignoring(-100)}


@kind(
    "pixels that are ignored",
    lambda w: 64 * (4 * 27 * w + 6 * w * 4),
    units=64,
    told="ignored_targets",
)
def pixels() -> dict[str, Any]:
    def make(width: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 4, 1))

    g = generator(7)
    y = torch.randint(4, (2000, 8, 8), generator=g)
    y[torch.rand(y.shape, generator=g) < 0.2] = 255
    data = TensorDataset(points(2000, 192).view(-1, 3, 8, 8), y)
    return {"model_cls": make, "dataset": data, "loss_fn": nn.CrossEntropyLoss(ignore_index=255)}


@kind("a teacher in the step", lambda w: mlp_flops(8, w, 4) + 2 * (8 * 64 + 64 * 4))
def taught() -> dict[str, Any]:
    teacher = mlp(64)

    def step(model: Any, batch: Any) -> tuple[Tensor, int]:
        with torch.no_grad():
            wanted = teacher.to(batch[0].device)(batch[0]).softmax(1)
        loss = F.kl_div(model(batch[0]).log_softmax(1), wanted, reduction="batchmean")
        return loss * len(wanted), len(wanted)

    return {"model_cls": mlp, "dataset": labelled(), "step_fn": step}


@kind("a network in the loss", lambda w: mlp_flops(8, w, 8) + 6 * (8 * 64 + 64 * 16))
def perceptual() -> dict[str, Any]:
    """It is frozen: gradients pass through it for the output, and none for the target."""
    network = mlp(64, 8, 16).requires_grad_(False)

    def loss(out: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(network(out), network(target))

    data = TensorDataset(points())
    return {"model_cls": lambda width: mlp(width, 8, 8), "dataset": data, "loss_fn": loss}


@kind("diffusion step", lambda w: mlp_flops(9, w, 8))
def diffusion() -> dict[str, Any]:
    """Noise and times drawn on the host, without a device."""

    def step(model: Any, batch: Any) -> tuple[Tensor, int]:
        (x,) = batch
        t = torch.rand(len(x), 1)
        noise = torch.randn(x.shape)
        noisy = (1 - t) * x + t * noise
        return F.mse_loss(model(torch.cat([noisy, t], 1)), noise - x) * len(x), len(x)

    x = points().tanh()
    return {
        "model_cls": lambda width: mlp(width, 9, 8),
        "dataset": TensorDataset(x),
        "step_fn": step,
    }


@kind(
    "normalizing flow, negative loss",
    lambda w: 2 * (mlp_flops(4, w, 8)) + 2 * 4 * w,
    told="negative_loss",
)
def flow() -> dict[str, Any]:
    """Two affine couplings; the second one's input needs a gradient."""

    class Flow(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.nets = nn.ModuleList([mlp(width, 4, 8), mlp(width, 4, 8)])

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            logdet = torch.zeros(len(x))
            for net in self.nets:
                a, b = x.chunk(2, 1)
                scale, shift = net(a).chunk(2, 1)
                scale = scale.tanh()
                x = torch.cat([b * scale.exp() + shift, a], 1)
                logdet = logdet + scale.sum(1)
            return x, logdet

    def nll(out: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
        z, logdet = out
        return (0.5 * z.square().sum(1) + 4 * math.log(2 * math.pi) - logdet).mean()

    x = points()
    x = 0.05 * torch.cat([x[:, :4], x[:, :4].tanh() + 0.02 * x[:, 4:]], 1)
    return {"model_cls": Flow, "dataset": TensorDataset(x), "loss_fn": nll}


@kind("rare classes at the prior", lambda w: mlp_flops(8, w, 1), batch=32)
def rare() -> dict[str, Any]:
    x = points(20000)
    y = (torch.rand(len(x), generator=generator(5)) < torch.sigmoid(-5.3 + 1.2 * x[:, 0])).float()
    prior = float(torch.logit(y.mean()))

    def make(width: int) -> nn.Module:
        model: Any = mlp(width, 8, 1)
        nn.init.zeros_(model[2].weight)
        nn.init.constant_(model[2].bias, prior)
        return model

    def loss(out: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(out.squeeze(1), y)

    return {"model_cls": make, "dataset": TensorDataset(x, y), "loss_fn": loss}


@kind("noisy regression", lambda w: mlp_flops(8, w, 1))
def noisy() -> dict[str, Any]:
    x = points()
    y = 0.05 * x[:, :1] + torch.randn(len(x), 1, generator=generator(6))
    return {
        "model_cls": lambda width: mlp(width, 8, 1),
        "dataset": TensorDataset(x, y),
        "loss_fn": F.mse_loss,
    }


@kind("variational autoencoder", lambda w: mlp_flops(8, w, 8) + 6 * (4 * w + w * 8))
def vae() -> dict[str, Any]:
    class Vae(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.encoder, self.decoder = mlp(width, 8, 8), mlp(width, 4, 8)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            mean, logvar = self.encoder(x).chunk(2, 1)
            z = mean + (0.5 * logvar).exp() * torch.randn_like(mean)
            return self.decoder(z), mean, logvar

    def elbo(out: tuple[Tensor, Tensor, Tensor], x: Tensor, beta: float = 0.1) -> Tensor:
        y, mean, logvar = out
        kl = -0.5 * (1 + logvar - mean.square() - logvar.exp()).sum(1).mean()
        return F.mse_loss(y, x, reduction="sum") / len(x) + beta * kl

    return {"model_cls": Vae, "dataset": TensorDataset(points()), "loss_fn": elbo}


@kind("much dropout", lambda w: mlp_flops(8, w, w, 4))
def dropout() -> dict[str, Any]:
    def make(width: int) -> nn.Module:
        layers = (
            nn.Linear(8, width),
            nn.ReLU(),
            nn.Dropout(0.7),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Dropout(0.7),
        )
        return nn.Sequential(*layers, nn.Linear(width, 4))

    return {"model_cls": make, "dataset": labelled(), "loss_fn": F.cross_entropy}
