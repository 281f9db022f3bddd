"""Text and images, really trained: untuned, with trials before the sweep, and tuning itself.

Each starts from a recipe that was fitted to none of these runs, ``default-1`` for text and the demo's for
images, and from one whose rate is four times too low and whose batch four times too large. A careful search
of each size from the former is what the others are compared with. For text the default itself, without
tuning, stands beside them. ``adaptive`` tunes itself and chooses its sizes too, until N* is as well known as
by ``joint``, or as many FLOPs are spent.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common.report import Goal, Table, at_most
from benchmarks.common.report import Result as Found
from flops_fit import Adaptive, Result, find_optimal
from flops_fit.cli.sweep_commands import SIZES, demo_sweep
from flops_fit.examples import fashion_sweep
from flops_fit.examples.example_vit_cifar import FASHION_RECIPE, FASHION_SIZES
from flops_fit.execute import PoolExecutor
from flops_fit.fit.prediction import Prediction
from flops_fit.recipes import default
from flops_fit.recipes.published import Recipe, default_1
from flops_fit.recipes.resolve import TunedRecipe
from flops_fit.text import format_count

WAYS = ("none", "pilot", "per-size", "joint", "adaptive")
OFF = 4.0


@dataclass(frozen=True)
class Task:
    """A model and data: the arguments by widths at each budget, these, and the recipes it starts from."""

    title: str
    sweep: Callable[[dict[float, list[int]]], dict[str, Any]]
    sizes: dict[float, list[int]]
    quick: dict[float, list[int]]
    recipes: dict[str, Any]


def _off(recipe: Recipe) -> TunedRecipe:
    return TunedRecipe(recipe, ((1.0, 1 / OFF),), OFF, "off")


TEXT = Task(
    "The demo's text",
    demo_sweep,
    SIZES,
    {3e9: [8, 12, 16], 6e9: [8, 12, 16, 24], 1.2e10: [12, 16, 24, 32]},
    {"default-1": default_1, f"×{OFF:g} off": _off(default_1), "default": default},
)


def images(data_dir: Path | None) -> Task:
    """Vision transformers on Fashion-MNIST, each size once."""
    few = {C: FASHION_SIZES[C] for C in sorted(FASHION_SIZES)[:3]}
    return Task(
        "Fashion-MNIST",
        lambda sizes: {**fashion_sweep(data_dir, sizes), "design": "grid"},
        FASHION_SIZES,
        few,
        {FASHION_RECIPE.name: FASHION_RECIPE, f"×{OFF:g} off": _off(FASHION_RECIPE)},
    )


def real(task: Task, folder: Path, ways: Sequence[str], quick: bool, workers: int) -> Found:
    """Every way from every recipe; ``way`` or ``way@recipe`` in ``ways`` takes a part of them."""
    sizes = task.quick if quick else task.sizes
    top, rows, made = max(sizes), [], {}
    for start, recipe in task.recipes.items():
        for way in WAYS:
            if start == "default" and way != "none":
                continue
            if ways and way not in ways and f"{way}@{start.split()[0].strip('×')}" not in ways:
                continue
            began = time.perf_counter()
            name = f"{way}-{start.split()[0].strip('×')}{'-quick' if quick else ''}"
            sweep = task.sweep(sizes) | {"tune": way, "hparams": recipe}
            if way == "adaptive":
                if (start, "joint") not in made:
                    continue
                own = {"design": _like(made[start, "joint"], top), "tune": "joint", "sizes": None}
                sweep |= {**own, "compute_budgets": None}
            result = find_optimal(
                **sweep,
                executor=PoolExecutor(workers=workers, threads=1) if workers > 1 else "inprocess",
                output_dir=folder / name,
                device="cpu",
                progress=False,
            )
            assert isinstance(result, Result)
            result.report()
            print(name, *result.steps, result, *map(str, result.diagnostics), sep="\n", flush=True)
            made[start, way] = result
            rows.append(_row(start, way, result, top, time.perf_counter() - began))
    columns = (
        "recipe", "tune", "runs", "FLOPs", "exponent", f"N* at {top:.0e}", f"loss at {top:.0e}",
        "lr there", "batch there", "scatter", "seconds",
    )  # fmt: skip
    notes = (
        "FLOPs are of all runs, trials included; intervals hold 90 %; seconds are of this call, "
        "which keeps what is on record.",
        *_run_by_run(made),
    )
    return [Table(task.title, columns, tuple(rows), notes)], _goals(made, top)


def _like(grid: Result, C: float) -> Adaptive:
    """An adaptive design that answers as precisely as a grid, for at most its FLOPs."""
    span = grid.predict(C).intervals["optimal_params"]
    assert span is not None
    half = math.sqrt(span[1] / span[0]) - 1
    spent = math.fsum(run.flops for run in grid.runs)
    return Adaptive(target_compute=C, max_flops=spent, half_width=half)


def _run_by_run(made: dict[tuple[str, str], Result]) -> list[str]:
    """How far the default's runs lie from those of its first version, where both were trained."""
    both = [made.get((start, "none")) for start in ("default-1", "default")]
    if None in both:
        return []
    first, new = (
        {r.experiment.label: r.loss for r in result.runs} for result in both if result is not None
    )
    gaps = [math.log((new[k] or math.nan) / (first[k] or math.nan)) for k in first]
    error = statistics.stdev(gaps) / math.sqrt(len(gaps))
    return [
        f"Losses of default over those of default-1, run by run: {statistics.mean(gaps):+.2%}, standard "
        f"error {error:.2%}; from {min(gaps):+.1%} to {max(gaps):+.1%}."
    ]


def _row(start: str, way: str, r: Result, top: float, seconds: float) -> tuple[str, ...]:
    p, rule = r.predict(top), r.fit.hparams
    a = r.fit.approaches[2].a
    trials = 0.0 if r.tuning is None else r.tuning.flops
    lr = batch = "–"
    if rule is not None:
        told = rule.optimal(p.optimal_params, p.optimal_tokens)
        lr = _span(told.lr or math.nan, told.lr_interval, "{:.2g}".format)
        batch = _span(told.batch_units or math.nan, told.batch_interval, format_count)
    return (
        start, way, str(len(r.runs)), f"{math.fsum(x.flops for x in r.runs) + trials:.3g}",
        "–" if a is None else f"{a:.3f}", _of(p, "optimal_params"), _of(p, "expected_loss"),
        lr, batch, f"{r.fit.noise_sd:.2%}", f"{seconds:.0f}",
    )  # fmt: skip


def _of(p: Prediction, name: str) -> str:
    show = format_count if name == "optimal_params" else "{:.3f}".format
    return _span(getattr(p, name), p.intervals[name], show)


def _span(value: float, span: tuple[float, float] | None, show: object) -> str:
    assert callable(show)
    return show(value) if span is None else f"{show(value)} ({show(span[0])}–{show(span[1])})"


def _goals(made: dict[tuple[str, str], Result], top: float) -> list[Goal]:
    """A wrong recipe has to end where a right one does."""
    own = [result.predict(top) for (_, way), result in made.items() if way == "joint"]
    if len(own) < 2:
        return []
    apart = [abs(math.log(getattr(own[0], n) / getattr(own[1], n))) for n in _COMPARED]
    return [
        at_most(f"{name}: ln of the two recipes' ratio", value, most)
        for name, value, most in zip(_COMPARED, apart, (0.4, 0.03), strict=True)
    ]


_COMPARED = ("optimal_params", "expected_loss")
