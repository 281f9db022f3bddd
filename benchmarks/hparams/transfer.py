"""Does the best learning rate of a narrow model serve wide ones? In μP and without, on real data.

Each width trains on the same number of units at each rate, under several seeds. A parabola through the
mean of ln loss over seeds, at the best rate and its neighbours, gives a width's best rate; a line
through those of all widths says by how many steps of the grid it moves from the narrowest to the widest.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Subset

from benchmarks.common.report import Goal, Result, Table, at_least, at_most
from flops_fit import HParams, Mup, TrainingConfig, plan_sweep, run_sweep
from flops_fit.examples import (
    GPT,
    MNISTDataset,
    SOTUDataset,
    VisionTransformer,
    gpt_loss_fn,
    vit_loss_fn,
)
from flops_fit.execute import PoolExecutor
from flops_fit.records import Experiment, ParamCount, Run

FOLDER = Path("outputs/bench/hparams")
STEP = 2.0
SEEDS = {16: 12, 32: 6, 64: 3, 128: 3}  # small models are noisier, and their runs cheap


@dataclass(frozen=True)
class Task:
    """A model on data, how long it trains, and the rates to try."""

    name: str
    arguments: Mapping[str, Any]
    units: float
    batch: int
    rates: Sequence[float]
    seeds: Mapping[int, int]

    @property
    def widths(self) -> list[int]:
        """Ascending."""
        return sorted(self.seeds)


@dataclass(frozen=True)
class AtRate:
    """A recipe: one rate for all."""

    lr: float
    batch: float

    def __call__(self, params: ParamCount, units: float, unit: str) -> HParams:
        return HParams(self.lr, self.batch, warmup=0.1, beta2=0.98, recipe="study-1")


@dataclass(frozen=True)
class Transfer:
    """Losses by width and rate, one a seed; ``inf`` where a run diverged."""

    task: Task
    parametrization: str
    losses: Mapping[int, Mapping[float, Sequence[float]]]
    flops: float

    def mean(self, width: int) -> dict[float, float]:
        """The geometric mean over seeds at each rate."""
        rows = self.losses[width].items()
        return {lr: math.exp(float(np.mean(np.log(x)))) for lr, x in rows}

    def best(self, width: int, seed: int | None = None) -> float:
        """The rate with the lowest loss, by a parabola through it and its neighbours."""
        rows = self.losses[width]
        part = slice(None) if seed is None else self._part(width, seed)
        values = {lr: math.exp(float(np.mean(np.log(x[part])))) for lr, x in rows.items()}
        rates = sorted(values)
        i = min(range(len(rates)), key=lambda j: values[rates[j]])
        near = [j for j in (i - 1, i, i + 1) if 0 <= j < len(rates) and values[rates[j]] < math.inf]
        if len(near) < 3:
            return rates[i]
        x, y = np.log([rates[j] for j in near]), np.log([values[rates[j]] for j in near])
        a, b, _ = np.polyfit(x, y, 2)
        return float(np.exp(np.clip(-b / (2 * a), x[0], x[-1])))

    def _part(self, width: int, seed: int) -> slice:
        """A width's share of seeds where those of the widest are taken one by one."""
        each = self.task.seeds[width] // min(self.task.seeds.values())
        return slice(seed * each, (seed + 1) * each)

    def moves(self, seed: int | None = None) -> float:
        """Steps of the grid by which the best rate rises from the narrowest to the widest."""
        x = np.log2(self.task.widths)
        y = np.log([self.best(w, seed) for w in self.task.widths]) / math.log(STEP)
        return float(np.polyfit(x, y, 1)[0] * (x[-1] - x[0]))

    @property
    def spread(self) -> float:
        """Standard error of the moves over seeds."""
        moves = [self.moves(s) for s in range(min(self.task.seeds.values()))]
        return float(np.std(moves, ddof=1) / math.sqrt(len(moves)))

    @property
    def regret(self) -> float:
        """How much the narrowest width's best rate costs the widest, relative."""
        narrow, wide = self.task.widths[0], self.task.widths[-1]
        mean = self.mean(wide)
        rate = min(mean, key=lambda lr: abs(math.log(lr / self.best(narrow))))
        return mean[rate] / min(mean.values()) - 1


def gpt_task(quick: bool) -> Task:
    """The bundled GPT over bytes of the State of the Union addresses, context 64."""
    held_out = SOTUDataset("validation", 64)
    arguments = {
        "model_cls": GPT,
        "model_size_param": "d_model",
        "model_kwargs": {"num_layers": 2, "max_seq_len": 64, "mup_attention": True},
        "dataset": SOTUDataset("train", 64),
        "eval_dataset": Subset(held_out, range(0, len(held_out), 16)),
        "loss_fn": gpt_loss_fn,
    }
    rates = [0.0025 * STEP**i for i in range(8)]
    if quick:
        return Task("gpt", arguments, 20 * 512, 512, rates[3:6], {16: 2, 32: 2})
    return Task("gpt", arguments, 150 * 1024, 1024, rates, SEEDS)


def vit_task(quick: bool) -> Task:
    """The bundled vision transformer on 5,000 MNIST digits, with four heads at every width."""
    arguments = {
        "model_cls": VisionTransformer,
        "model_size_param": "embed_dim",
        "model_kwargs": {"num_heads": 4, "patch_size": 8},
        "dataset": MNISTDataset(train=True),
        "eval_dataset": MNISTDataset(train=False),
        "loss_fn": vit_loss_fn,
    }
    rates = [0.000625 * STEP**i for i in range(8)]
    if quick:
        return Task("vit", arguments, 60 * 32, 32, rates[1:4], {16: 2, 32: 2})
    return Task("vit", arguments, 150 * 32, 32, rates, SEEDS)


def measure(task: Task, name: str, training: TrainingConfig, quick: bool) -> Transfer:
    """Train every width at every rate under every seed; runs that are on record are kept."""
    plan = plan_sweep(
        **task.arguments, compute_budgets=[_middle(task)], sizes=list(task.widths),
        hparams=AtRate(task.rates[0], task.batch), training=training,
    )  # fmt: skip
    factory = plan.require_planner("transfer").factory
    made = [
        replace(factory, recipe=AtRate(lr, task.batch)).make(
            factory.counter.per_unit(width) * task.units, width, repeat
        )
        for width in task.widths
        for lr in task.rates
        for repeat in range(task.seeds[width])
    ]
    experiments = [e for e in made if isinstance(e, Experiment)]
    folder = FOLDER / f"{task.name}-{name}{'-quick' if quick else ''}"
    runs = run_sweep(
        replace(plan, experiments=tuple(experiments)),
        executor=PoolExecutor(workers=2, threads=1), output_dir=folder, progress=True,
    )  # fmt: skip
    return Transfer(task, name, _by_rate(runs), math.fsum(r.flops for r in runs))


def _middle(task: Task) -> float:
    """A budget at which all widths make whole steps; only the counts of that plan are used."""
    probe = plan_sweep(
        **task.arguments, compute_budgets=[1e12], sizes=[task.widths[-1]], hparams=AtRate(0.01, 1.0)
    )
    return probe.require_planner("transfer").factory.counter.per_unit(task.widths[-1]) * task.units


def _by_rate(runs: Sequence[Run]) -> dict[int, dict[float, list[float]]]:
    losses: dict[int, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        e = run.experiment
        loss = run.loss if run.state == "completed" and run.loss is not None else math.inf
        losses[e.size][e.hparams.lr].append(loss)
    return {width: dict(rows) for width, rows in losses.items()}


def part(make: Callable[[bool], Task]) -> Callable[[bool], Result]:
    """A part of the study for one task."""

    def run(quick: bool) -> Result:
        task = make(quick)
        ways = {"standard": TrainingConfig(), "mup": TrainingConfig(parametrization=Mup())}
        both = [measure(task, name, training, quick) for name, training in ways.items()]
        draw(both, FOLDER / f"transfer-{task.name}.png")
        return [_bests(both), *(losses_table(t) for t in both)], goals(both)

    return run


def goals(both: Sequence[Transfer]) -> list[Goal]:
    """Less than a step in μP, and a step or more without."""
    standard, mup = both
    name = standard.task.name
    return [
        at_most(f"{name}, μP: steps that the best rate moves", abs(mup.moves()), 1.0),
        at_least(f"{name}, standard: steps that the best rate moves", abs(standard.moves()), 1.0),
    ]


def _bests(both: Sequence[Transfer]) -> Table:
    widths = both[0].task.widths
    rows = tuple(
        (
            t.parametrization,
            *(f"{t.best(w):.4f}" for w in widths),
            f"{t.moves():+.2f} ± {t.spread:.2f}",
            "diverged" if math.isinf(t.regret) else f"{t.regret:.2%}",
            f"{t.flops:.3g}",
        )
        for t in both
    )
    columns = ("", *(f"width {w}" for w in widths), "moves, steps", "regret at the widest", "FLOPs")
    task = both[0].task
    note = (
        f"{task.name}: {task.units:,.0f} units in batches of {task.batch}; "
        f"{', '.join(map(str, task.seeds.values()))} seeds; rates a factor {STEP:g} apart; moves from the "
        "narrowest to the widest by a line, ± standard error over seeds; regret of the narrowest's "
        "best rate."
    )
    return Table(f"Best learning rate by width: {task.name}", columns, rows, (note,))


def losses_table(t: Transfer) -> Table:
    rows = tuple(
        (str(w), *(_shown(t.mean(w)[lr]) for lr in sorted(t.losses[w]))) for w in t.task.widths
    )
    columns = ("width", *(f"lr {lr:.4g}" for lr in t.task.rates))
    return Table(f"Held-out loss: {t.task.name}, {t.parametrization}", columns, rows)


def _shown(loss: float) -> str:
    return "diverged" if math.isinf(loss) else f"{loss:.4f}"


def draw(both: Sequence[Transfer], path: Path) -> None:
    """Loss against rate, a line a width, side by side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    figure = Figure(figsize=(8, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2, sharey=True)
    shades = ("#9ecae1", "#4292c6", "#08519c", "#08264d")
    for ax, t in zip(axes, both, strict=True):
        for width, shade in zip(t.task.widths, shades, strict=False):
            mean = {lr: x for lr, x in sorted(t.mean(width).items()) if x < math.inf}
            ax.plot(list(mean), list(mean.values()), "o-", color=shade, ms=3.5, lw=1.4)
            ax.plot(t.best(width), min(mean.values()), "v", color="#d95f02", ms=6, zorder=3)
        _name_widths(ax, t, shades)
        ax.set_xscale("log")
        ax.set_xlim(t.task.rates[0] / 1.7, t.task.rates[-1] * 1.7)
        ax.xaxis.set_major_locator(FixedLocator(list(t.task.rates)[1::2]))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        ax.set_title(
            {"standard": "Standard: the same rate for all weights", "mup": "μP"}[t.parametrization],
            fontsize=10, loc="left",
        )  # fmt: skip
        ax.set_xlabel(
            f"learning rate at width {t.task.widths[0]}"
            if t.parametrization == "mup"
            else "learning rate"
        )
        ax.spines[["top", "right"]].set_visible(False)
    lowest = min(min(t.mean(w).values()) for t in both for w in t.task.widths)
    highest = max(t.mean(t.task.widths[0])[t.task.rates[0]] for t in both)
    axes[0].set_ylim(lowest * 0.97, highest * 1.03)
    axes[0].set_ylabel("held-out loss")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160)


def _name_widths(ax: Any, t: Transfer, shades: Sequence[str]) -> None:
    """Each width at the end of its line, on the side where the lines are the farther apart."""
    lines = {w: {lr: x for lr, x in t.mean(w).items() if x < math.inf} for w in t.task.widths}

    def gap(end: Callable[..., float]) -> float:
        losses = sorted(line[end(line)] for line in lines.values())
        return min(b - a for a, b in pairwise(losses))

    end, side = max(((min, "right"), (max, "left")), key=lambda choice: gap(choice[0]))
    for (width, line), shade in zip(lines.items(), shades, strict=False):
        lr = end(line)
        text = f"{width}  " if side == "right" else f"  {width}"
        ax.annotate(text, (lr, line[lr]), color=shade, va="center", ha=side, fontsize=8)
