"""Each of two ranks does all that the tests ask for and says what came of it; started by torchrun.

One launch serves every test, as importing torch takes most of it.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import flops_fit
from flops_fit.data import split_data
from flops_fit.distributed import join_ranks
from flops_fit.errors import FlopsFitError
from flops_fit.model import ModelSpec
from flops_fit.objective import Objective
from flops_fit.records import Experiment, Run
from flops_fit.store import Store
from flops_fit.train import Trainer, TrainingConfig
from tests.conftest import make_experiment, with_changes

RANK = int(os.environ.get("RANK", "0"))
SAMPLES, ROW, WORDS = 400, 6, 11


class Rows(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Sequences to predict, with very different numbers of counted targets, some without any."""

    def __init__(self, broken_on: int | None = None, samples: int = SAMPLES) -> None:
        generator = torch.Generator().manual_seed(3)
        self.x = torch.randint(WORDS, (samples, ROW), generator=generator)
        self.y = (self.x * 3 + 1) % WORDS
        for i in range(samples):
            self.y[i, : i % (ROW + 1)] = -100
        self.broken_on, self.read = broken_on, 0

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.read += 1
        if self.read > 150 and self.broken_on == RANK:
            raise OSError("this disk cannot be read")
        return self.x[i], self.y[i]


def masked(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)


class Words(nn.Module):
    """Predicts each word from the last, with what the tests need."""

    def __init__(self, width: int = 8, dropout: float = 0.0, room: int | None = None) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, width)
        self.rare = nn.Linear(width, width)  # reached by few samples alone
        self.never = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, WORDS)
        self.room = room

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.room is not None and len(x) > self.room and RANK == 1 and self.training:
            raise torch.OutOfMemoryError("no room")
        h = self.embedding(x)
        rare = (x[:, 0] == 0)[:, None, None]
        if bool(rare.any()):
            h = h + torch.where(rare, self.rare(h), 0.0)
        logits: torch.Tensor = self.head(self.dropout(h))
        return logits


class Deep(Words):
    """Layers in a list, each with dropout."""

    def __init__(self, width: int = 8, dropout: float = 0.0) -> None:
        super().__init__(width, dropout)
        parts = (nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(3))
        self.layers = nn.ModuleList(parts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.embedding(x)
        for layer in self.layers:
            h = h + self.dropout(layer(h))
        logits: torch.Tensor = self.head(h)
        return logits


FEW = 20  # steps
SHARDED = TrainingConfig(sharding="fsdp", activation_checkpointing=True)


def trainer(
    kwargs: dict[str, Any] | None = None, broken_on: int | None = None, model: Any = Words
) -> Trainer:
    data, held_out = split_data(Rows(broken_on), Rows())
    return Trainer(ModelSpec(model, "width", kwargs or {}), data, held_out, Objective(masked))


def deep(config: TrainingConfig, samples: int = 11) -> Any:
    """What a run of the deep model says."""
    return told(replace(trainer(model=Deep), config=config)(experiment(samples, FEW)))


def experiment(batch_size: int = 11, steps: int = 40) -> Experiment:
    return make_experiment(size=8, batch_size=batch_size, steps=steps, tokens=batch_size * steps)


def told(run: Run) -> dict[str, Any]:
    return {
        "state": run.state,
        "reason": run.reason,
        "loss": run.loss,
        "loss_se": run.loss_se,
        "train_loss": run.train_loss,
        "tokens": run.tokens,
        "ranks": run.ranks,
        "resumed": run.resumed,
        "microbatch": run.microbatch,
        "notes": list(run.notes),
    }


def trained(kwargs: dict[str, Any] | None = None, batch_size: int = 11, **changes: Any) -> Any:
    """What a run says, and its parameters at the end."""
    models: list[Any] = []
    make = trainer(kwargs)
    build = make.model.build

    def kept(size: Any) -> Any:
        models.append(build(size))
        return models[-1]

    object.__setattr__(make.model, "build", kept)
    run = with_changes(make, **changes)(experiment(batch_size))
    values = [p.detach().flatten().tolist() for p in models[-1].parameters()]
    return {**told(run), "weights": [v for part in values for v in part]}


def stopped(folder: Path, make: Trainer, steps: int = 40) -> Any:
    """Rank 1 is asked to stop in the middle; then both go on."""
    whole, make = make, replace(make, folder=folder / f"of-rank-{RANK}")
    code = None
    if RANK == 1:  # only rank 0 hears of progress, so this one asks by itself
        make = replace(make, data=_Asking(make.data))
    try:
        make(experiment(steps=steps))
    except SystemExit as end:
        code = end.code
    join_ranks("cpu").all_reduce_max()  # until both have written
    kept = sorted(p.name for p in make.folder.rglob("step-*")) if make.folder else []
    again = replace(whole, folder=make.folder)(experiment(steps=steps))
    return {"code": code, "kept": kept, "again": told(again)}


def hopeless(folder: Path) -> Any:
    """A run whose reference ended far below it, which only rank 0 can read."""
    asked = experiment(steps=200)
    asked = replace(asked, hparams=replace(asked.hparams, lr=1e-6))
    reference = replace(asked, seed=9)
    make = replace(trainer(), config=TrainingConfig(stop_hopeless=True))
    if RANK == 0:
        store = Store.open(folder / "hopeless")
        store.publish(Run(reference, "completed", loss=0.1, train_loss=0.1))
        make = replace(make, folder=store.runs, references={asked.id: reference.id})
    return told(make(asked))


def sharded_dropout() -> Trainer:
    return replace(trainer({"dropout": 0.3}, model=Deep), config=SHARDED)


class _Asking:
    """A data spec that sends its process SIGTERM at the 17th batch."""

    workers = None

    def __init__(self, spec: Any) -> None:
        self.spec, self.cut = spec, spec.cut

    def batches(self, *args: Any, **kwargs: Any) -> Any:
        for i, batch in enumerate(self.spec.batches(*args, **kwargs)):
            if i == 16:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch


def branched(folder: Path) -> Any:
    """A short and a long run of one trunk, and the long one alone."""
    hparams = replace(experiment().hparams, schedule="wsd", cooldown=0.5, warmup_units=33)
    short, long = (
        replace(experiment(steps=steps), hparams=hparams, trunk="0123456789abcdef")
        for steps in (24, 40)
    )
    make = trainer({"dropout": 0.3})
    shared = make.in_folder(folder / f"of-rank-{RANK}", folder / f"trunks-of-{RANK}")
    runs = [shared(short), shared(long)]
    return {
        "runs": [told(run) for run in runs],
        "shared": runs[1].flops_shared / runs[1].flops,
        "alone": told(make(replace(long, trunk=""))),
        "kept": len(list((folder / f"trunks-of-{RANK}").rglob("manifest.json"))),
    }


def sweep(folder: Path) -> Any:
    """The one call, on every rank."""
    arguments: dict[str, Any] = {
        "model_cls": Words,
        "model_size_param": "width",
        "dataset": Rows(samples=3000),  # so that no run repeats data, which would cost a larger fit
        "loss_fn": masked,
        "compute_budgets": [5e5, 1e6, 2e6],
        "sizes": [4, 6, 8],
        "flops": "6nd",
        "hparams": {"batch_units": 33, "lr": 0.01},
        "progress": False,
    }
    result = flops_fit.find_optimal(**arguments, output_dir=folder / f"of-rank-{RANK}")
    try:
        flops_fit.find_optimal(**arguments, output_dir=folder / "pool", executor="pool")
    except FlopsFitError as error:
        refused = str(error)
    again = flops_fit.find_optimal(**arguments, output_dir=folder / f"of-rank-{RANK}")
    return {
        "runs": [told(r) for r in result.runs],
        "predicted": result.predict(1e8).optimal_params,
        "same": again.predict(1e8).optimal_params == result.predict(1e8).optimal_params,
        "files": sorted(p.name for p in folder.glob(f"of-rank-{RANK}/*")),
        "refused": refused,
    }


def stopped_sweep(folder: Path) -> str:
    """Rank 0 cannot write: every rank hears of it."""
    (folder / "taken").write_text("a file, not a folder")
    plan = flops_fit.plan_sweep(Words, "width", {}, Rows(), masked, [3e6], sizes=[4], flops="6nd")
    try:
        flops_fit.run_sweep(plan, output_dir=folder / "taken", progress=False)
    except Exception as error:  # what kind it is is what is told
        return f"{type(error).__name__}: {error}"
    return ""


def threads() -> int:
    """How many threads this process has; 0 where that cannot be read."""
    folder = Path("/proc/self/task")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def main(out: Path) -> None:
    torch.set_num_threads(1)
    alone = threads()
    # registered before the ranks join, so called after they have left
    atexit.register(lambda: (out / f"threads-{RANK}").write_text(f"{threads() - alone}"))
    ranks = join_ranks("cpu")
    answers = {
        "plain": trained(),
        "cut": trained(microbatch=2),
        "one sample": trained(batch_size=1),
        "short": trained({"room": 3}),
        "no room": trained({"room": 0}),
        "dropout": trained({"dropout": 0.3}),
        "broken": told(trainer(broken_on=1)(experiment())),
        "hopeless": hopeless(out),
        "stopped": stopped(out / "stopped", trainer({"dropout": 0.3})),
        "sharded": deep(SHARDED),
        "sharded, cut": deep(replace(SHARDED, microbatch=4)),
        "sharded, few samples": deep(SHARDED, samples=1),
        "sharded, dropout": told(sharded_dropout()(experiment(steps=FEW))),
        "sharded, stopped": stopped(out / "sharded", sharded_dropout(), FEW),
        "branched": branched(out / "branched"),
        "sweep": sweep(out / "sweep"),
        "stopped sweep": stopped_sweep(out),
        "sum": _sums(ranks),
    }
    (out / f"rank-{RANK}.json").write_text(json.dumps(answers))


def _sums(ranks: Any) -> list[float]:
    """Tensors of several kinds and shapes, added over ranks."""
    tensors = [
        torch.tensor([1.0, 2.0]) * (RANK + 1),
        torch.tensor(3, dtype=torch.int64) * (RANK + 1),
        torch.ones(2, 3).t()[1:] * (RANK + 1),
        torch.ones(20_000_000)[:1] * (RANK + 1),
    ]
    ranks.all_reduce_sum(tensors)
    return [float(t.sum()) for t in tensors]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
