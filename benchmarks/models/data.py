"""Data as it comes: streams, packed sequences, graphs, tables of identities, float64."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from benchmarks.models.interfaces import Bigram, mlp, token_loss
from benchmarks.models.kinds import classes, generator, kind, mlp_flops, points, words

V = 32


class Stream(IterableDataset[Any]):
    """Points with their classes, some or without end."""

    def __init__(self, length: int | None) -> None:
        self.length = length

    def __iter__(self) -> Any:
        g, left = generator(1), self.length
        W = torch.randn(8, 4, generator=generator(2))
        while left is None or left > 0:
            x = torch.randn(8, generator=g)
            yield x, (x @ W).argmax()
            left = None if left is None else left - 1


@kind("a stream that ends", lambda w: mlp_flops(8, w, 4), told="repeated_data")
def finite() -> dict[str, Any]:
    return {"model_cls": mlp, "dataset": Stream(700), "loss_fn": F.cross_entropy}


@kind("a stream without end", lambda w: mlp_flops(8, w, 4))
def endless() -> dict[str, Any]:
    return {"model_cls": mlp, "dataset": Stream(None), "loss_fn": F.cross_entropy}


def lengths(n: int = 3000) -> list[int]:
    """4 to 12, 8 in the mean."""
    return [4 + i % 9 for i in range(n)]


@kind(
    "packed sequences, LSTM",
    lambda w: 8 * 3 * 2 * 4 * w * 2 * w - 2 * 4 * w * w + 6 * w * 4,
    told="lengths",
)
def packed() -> dict[str, Any]:
    class Model(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.table = nn.Embedding(V, width)
            self.rnn = nn.LSTM(width, width, batch_first=True)
            self.head = nn.Linear(width, 4)

        def forward(self, ids: Tensor, length: Tensor) -> Tensor:
            x = pack_padded_sequence(
                self.table(ids), length.cpu(), batch_first=True, enforce_sorted=False
            )
            _, (h, _) = self.rnn(x)
            out: Tensor = self.head(h[-1])
            return out

    def collate(rows: list[Tensor]) -> Any:
        return (
            pad_sequence(rows, batch_first=True),
            torch.tensor([len(r) for r in rows]),
            torch.stack([r[0] % 4 for r in rows]),
        )

    rows = [row[:n] for row, n in zip(words(), lengths(), strict=True)]
    return {
        "model_cls": Model,
        "dataset": DataLoader(rows, collate_fn=collate),
        "loss_fn": F.cross_entropy,
    }  # type: ignore[arg-type]


@kind("GRU", lambda w: 2 * 12 * 3 * w * w * 2 * 3 - 2 * 3 * w * w + 12 * 6 * w * V, units=12)
def gru() -> dict[str, Any]:
    """No gradient goes to the first state."""

    class Model(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.table, self.rnn = nn.Embedding(V, width), nn.GRU(width, width, batch_first=True)
            self.head = nn.Linear(width, V)

        def forward(self, ids: Tensor) -> Tensor:
            out: Tensor = self.head(self.rnn(self.table(ids))[0])
            return out

    rows = words(3000, 13)
    data = TensorDataset(rows[:, :-1], rows[:, 1:])
    return {
        "model_cls": Model,
        "dataset": data,
        "loss_fn": lambda o, t: F.cross_entropy(o.flatten(0, 1), t.flatten()),
    }


@kind("graph network", lambda w: 7 * (mlp_flops(8, w) + 6 * w * w) + 6 * w * 4, told="lengths")
def graphs() -> dict[str, Any]:
    """Graphs of 4 to 10 nodes in one batch, as PyG joins them: nodes and edges after one another."""

    class Net(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.first, self.second, self.head = (
                nn.Linear(8, width),
                nn.Linear(width, width),
                nn.Linear(width, 4),
            )

        def forward(self, x: Tensor, edges: Tensor, batch: Tensor) -> Tensor:
            for layer in (self.first, self.second):
                h = layer(x)
                x = h.index_add(0, edges[1], h[edges[0]]).relu()
            out = x.new_zeros(int(batch.max()) + 1, x.shape[1]).index_add(0, batch, x)
            logits: Tensor = self.head(out)
            return logits

    def collate(graphs: list[tuple[Tensor, Tensor, Tensor]]) -> Any:
        sizes = [len(x) for x, _, _ in graphs]
        starts = torch.tensor([0, *sizes[:-1]]).cumsum(0)
        edges = torch.cat([e + s for (_, e, _), s in zip(graphs, starts, strict=True)], 1)
        batch = torch.arange(len(graphs)).repeat_interleave(torch.tensor(sizes))
        return (
            torch.cat([x for x, _, _ in graphs]),
            edges,
            batch,
            torch.stack([y for _, _, y in graphs]),
        )

    g, rows = generator(4), []
    for _ in range(2000):
        n = 4 + len(rows) % 7
        x = torch.randn(n, 8, generator=g)
        rows.append((x, torch.randint(n, (2, 2 * n), generator=g), x[:, :4].sum(0).argmax()))
    return {
        "model_cls": Net,
        "dataset": DataLoader(rows, collate_fn=collate),
        "loss_fn": F.cross_entropy,
    }  # type: ignore[arg-type]


@kind(
    "rows that are masked whole",
    lambda w: 6 * w * V * 11 * (1 - 0.7**8),
    units=0.3 * 11,
    told="lengths",
    within=0.1,
)
def masked() -> dict[str, Any]:
    """Seven in ten, so that one batch in seventeen has no target, and is left out in training.

    Units of the 960 samples of a run vary by 5 %.
    """

    class Model(Bigram):
        def forward(self, idx: Tensor) -> Tensor:
            return self.logits(idx)

    rows = [
        (row[:-1], row[1:] if i % 10 > 6 else torch.full((11,), -100))
        for i, row in enumerate(words())
    ]
    return {"model_cls": Model, "dataset": rows, "loss_fn": token_loss}


@kind("images of many sizes", lambda w: 4 * 27 * w * 25 + 6 * w * 4, told="lengths")
def sizes() -> dict[str, Any]:
    """Lists of images of 6 to 8 pixels a side, which a convolution passes one by one."""

    class Model(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, width, 3), nn.Linear(width, 4)

        def forward(self, images: list[Tensor]) -> Any:
            return self.head(torch.stack([self.conv(image).mean((1, 2)) for image in images]))

    def collate(rows: list[tuple[Tensor, Tensor]]) -> Any:
        return [x for x, _ in rows], torch.stack([y for _, y in rows])

    g, sides = generator(6), [(6 + i % 3, 6 + i // 3 % 3) for i in range(1800)]
    rows = [
        (torch.randn(3, a, b, generator=g), torch.tensor(i % 4)) for i, (a, b) in enumerate(sides)
    ]
    data: Any = DataLoader(rows, collate_fn=collate)  # type: ignore[arg-type]
    return {"model_cls": Model, "dataset": data, "loss_fn": F.cross_entropy}


@kind("recommender, sparse gradients", refused=r"sparse=False")
def sparse() -> dict[str, Any]:
    return recommender(True)


@kind("recommender", lambda w: mlp_flops(2 * w, w, 1) + 4.0 * w * w)
def recommended() -> dict[str, Any]:
    return recommender(False)


def recommender(sparse: bool) -> dict[str, Any]:
    class Model(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.users, self.items = (nn.Embedding(200, width, sparse=sparse) for _ in range(2))
            self.head = mlp(width, 2 * width, 1)

        def forward(self, user: Tensor, item: Tensor) -> Any:
            return self.head(torch.cat([self.users(user), self.items(item)], -1)).squeeze(-1)

    g = generator(5)
    u, i = (torch.randint(200, (3000,), generator=g) for _ in range(2))
    return {
        "model_cls": Model,
        "dataset": TensorDataset(u, i, ((u + i) % 5).float()),
        "loss_fn": F.mse_loss,
    }


@kind("float64", lambda w: mlp_flops(8, w, 4))
def doubles() -> dict[str, Any]:
    x = points().double()
    return {
        "model_cls": lambda width: mlp(width).double(),
        "dataset": TensorDataset(x, classes(x.float())),
        "loss_fn": F.cross_entropy,
    }


@kind("float64 data, float32 model", refused="float64|Double|dtype")
def mixed() -> dict[str, Any]:
    x = points().double()
    return {
        "model_cls": mlp,
        "dataset": TensorDataset(x, classes(x.float())),
        "loss_fn": F.cross_entropy,
    }
