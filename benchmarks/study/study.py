"""A sweep of all budgets but the largest, its prediction, and the largest budget's runs beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.report import Goal, Table
from benchmarks.common.report import Result as Found
from benchmarks.study.figure import draw
from flops_fit import Adaptive, Grid, Result, find_optimal, plan_sweep, run_sweep
from flops_fit.cli.sweep_commands import demo_sweep
from flops_fit.examples import fashion_sweep
from flops_fit.execute import PoolExecutor
from flops_fit.fit.minima import parabola
from flops_fit.recipes.resolve import TunedRecipe
from flops_fit.records import Run
from flops_fit.table.run_table import RunTable
from flops_fit.text import format_count

LEVELS = (0.9, 0.5)
RATES, BATCHES = (1 / 3, 1 / math.sqrt(3), math.sqrt(3), 3.0), (1 / 3, 3.0)
"""Factors on the rule's rate and batch that are tried at the predicted optimum."""
WINDOW = 5.0  # of sizes around the vertex of the largest budget's parabola
_DRAWS = 400


@dataclass(frozen=True)
class Study:
    """The arguments of a sweep by its sizes, and the widths at each budget, the largest last."""

    sweep: Callable[[dict[float, list[int]]], dict[str, Any]]
    sizes: Mapping[float, list[int]]
    repeats: int
    step: float  # between widths, of the one that is tried with other rates and batches
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def top(self) -> float:
        """The budget that is predicted."""
        return max(self.sizes)

    @property
    def lower(self) -> dict[float, list[int]]:
        """All others."""
        return {C: sizes for C, sizes in self.sizes.items() if self.top > C}

    def arguments(self, sizes: dict[float, list[int]]) -> dict[str, Any]:
        """Of find_optimal, for these sizes."""
        return {
            **self.sweep(sizes),
            "design": Grid(repeats=self.repeats),
            "device": "cpu",
            **self.settings,
        }


def heads(d_model: int) -> int | None:
    """One for widths below 8, which the model leaves to its user."""
    return 1 if d_model < 8 else None


def _text(sizes: dict[float, list[int]]) -> dict[str, Any]:
    sweep = demo_sweep(sizes)
    return {**sweep, "model_kwargs": {**sweep["model_kwargs"], "num_heads": heads}}


TEXT = Study(
    _text,
    {
        2.5e9: [4, 6, 8, 10, 12, 16],
        8e9: [6, 8, 10, 12, 16, 24],
        2.5e10: [8, 12, 16, 24, 32, 40],
        8e10: [12, 16, 24, 32, 40, 48],
        2.5e11: [16, 24, 32, 40, 48, 64],
        8e11: [28, 36, 48, 64, 80, 96],
        2.5e12: [32, 48, 64, 80, 112, 128],
        8e12: [48, 64, 80, 112, 144, 176],
    },
    repeats=2,
    step=8,
)


def IMAGES(data_dir: Path | None) -> Study:  # noqa: N802  # stands beside TEXT
    """Vision transformers on Fashion-MNIST."""
    return Study(
        lambda sizes: fashion_sweep(data_dir, sizes),
        {
            3e8: [2, 4, 6, 8],
            1e9: [2, 4, 6, 8, 10],
            3e9: [4, 6, 8, 10, 12],
            1e10: [6, 8, 10, 12, 16],
            3e10: [6, 8, 12, 16, 20],
            1e11: [10, 12, 16, 20, 28],
        },
        repeats=2,
        step=2,
    )


def quick_one(study: Study) -> Study:
    """The four smallest budgets, once each size: to see that all steps go through."""
    smallest = sorted(study.sizes)[:4]
    return replace(study, sizes={C: study.sizes[C] for C in smallest}, repeats=1)


def carry_out(study: Study, folder: Path, workers: int) -> Found:
    """Train, write the prediction down, train what it is about, and compare."""
    pool: Any = PoolExecutor(workers=workers, threads=1) if workers > 1 else "inprocess"
    result = find_optimal(
        **study.arguments(study.lower),
        tune="joint",
        executor=pool,
        output_dir=folder / "sweep",
        progress=False,
    )
    assert isinstance(result, Result)
    print(*result.steps, result, *map(str, result.diagnostics), sep="\n", flush=True)
    result.report()
    said = _written(folder / "prediction.json", result, study.top)

    def trained(name: str, sizes: Sequence[int], recipe: Any, **changes: Any) -> list[Run]:
        arguments = study.arguments({study.top: list(sizes)})
        plan = plan_sweep(**{**arguments, "hparams": recipe, **changes})
        runs = run_sweep(plan, executor=pool, output_dir=folder / name, progress=False)
        print(*(f"{name} {r.experiment.label}: {r.loss}" for r in runs), sep="\n", flush=True)
        return runs

    top = trained("top", study.sizes[study.top], result.recipe)
    width = _nearest(study, result)
    aside = {
        (lr, batch): trained(
            f"lr {lr:.2g} batch {batch:.2g}".replace(" ", "-"),
            [width],
            TunedRecipe(result.recipe, ((1.0, lr),), batch, "aside"),
        )
        for lr, batch in [*((x, 1.0) for x in RATES), *((1.0, x) for x in BATCHES)]
    }
    design = Adaptive(
        target_compute=study.top,
        max_flops=math.fsum(r.flops for r in result.runs),
        max_run_flops=max(study.lower),
        half_width=math.expm1(_half_width(result, study.top)),
    )
    own = dict.fromkeys(("sizes", "compute_budgets")) | {"design": design, "hparams": result.recipe}
    adaptive = find_optimal(
        **study.arguments(study.lower) | own,
        executor=pool,
        output_dir=folder / "adaptive",
        progress=False,
    )
    assert isinstance(adaptive, Result)
    print(*adaptive.steps, adaptive, sep="\n", flush=True)
    table = RunTable.from_runs(top)
    found = _vertices(table)
    compared, goals = _outcome(said, top, table, found, study)
    draw(result.fit, table, said["predictions"]["0.9"], found[:2], folder / "isoflop.png")
    return [compared, _rates(said, top, aside, width), _designs(result, adaptive, study.top)], goals


def _written(path: Path, result: Result, C: float) -> dict[str, Any]:
    """The prediction, from the file where it stands already."""
    if not path.exists():
        spans = {f"{level:g}": result.predict(C, level).to_dict() for level in LEVELS}
        at = result.predict(C)
        rule = None
        if result.fit.hparams is not None:
            best = result.fit.hparams.optimal(at.optimal_params, at.optimal_tokens)
            rule = {**vars(best), "exponents": str(result.fit.hparams.exponents)}
        flops = math.fsum(r.flops for r in result.runs)
        said = {"predictions": spans, "rule": rule, "trust": result.fit.trust, "flops": flops}
        path.write_text(json.dumps(said, indent=1, default=str) + "\n")
    return dict(json.loads(path.read_text()))


def _nearest(study: Study, result: Result) -> int:
    """The width at the largest budget whose parameters are nearest to the predicted optimum."""
    plan = plan_sweep(**study.arguments({study.top: study.sizes[study.top]}))
    best = result.predict(study.top).optimal_params
    near = min(plan.experiments, key=lambda e: abs(math.log(e.params.total / best)))
    return int(near.size)  # type: ignore[call-overload]  # widths are whole numbers


Span = tuple[float, float] | None
Vertex = tuple[float, float, Span, Span]


def _vertices(table: RunTable) -> Vertex:
    """N* and the loss there by a parabola, with 90 % intervals from its runs, where it has a vertex."""
    best = parabola(table, WINDOW)
    assert best is not None
    rng = np.random.default_rng(0)
    t = np.log(table.params / best.params)
    middle = best.loss + best.curvature / 2 * t**2
    drawn = []
    for _ in range(_DRAWS):
        again = parabola(
            replace(table, loss=middle + rng.normal(0, best.residual_sd, len(t))), WINDOW
        )
        if again is not None and again.interior:
            drawn.append((again.params, again.loss))
    if len(drawn) < _DRAWS / 2:
        return best.params, best.loss, None, None
    low, high = np.quantile(np.array(drawn), [0.05, 0.95], axis=0)
    return best.params, best.loss, (low[0], high[0]), (low[1], high[1])


def _outcome(
    said: dict[str, Any], top: list[Run], table: RunTable, found: Vertex, study: Study
) -> tuple[Table, list[Goal]]:
    N, loss, n_span, loss_span = found
    predicted = {level: said["predictions"][f"{level:g}"] for level in LEVELS}
    near = [r for r in top if abs(math.log(r.experiment.params.total / N)) < math.log(WINDOW)]
    nearest = min(near, key=lambda r: abs(math.log(r.experiment.params.total / N)))
    single = next(r for r in near if r.experiment.size == nearest.experiment.size)
    rows, goals = [], []
    wide = predicted[0.9]["intervals"]
    for what, name, span_name, value, span, show in (
        ("N*", "optimal_params", "optimal_params", N, n_span, format_count),
        ("D*", "optimal_tokens", "optimal_tokens", study_tokens(table, N), None, format_count),
        ("loss, mean of runs", "expected_loss", "expected_loss", loss, loss_span, "{:.4f}".format),
        ("loss, one run", "expected_loss", "run_loss", single.loss, None, "{:.4f}".format),
    ):
        low, high = wide[span_name]
        half = predicted[0.5]["intervals"][span_name]
        rows.append(
            (
                what, show(predicted[0.9][name]), f"{show(low)}–{show(high)}",
                f"{show(half[0])}–{show(half[1])}", show(value),
                "" if span is None else f"{show(span[0])}–{show(span[1])}",
                "inside" if low <= value <= high else "outside",
            )
        )  # fmt: skip
        goals.append(
            Goal(f"{what} at {study.top:.3g} FLOPs", value, low, high, "its 90 % interval")
        )
    columns = ("", "predicted", "90 %", "50 %", "measured", "90 % of that", "")
    notes = (
        f"Predicted from budgets up to {max(study.lower):.3g} FLOPs, {said['flops']:.3g} in all; trust: "
        f"{said['trust']}.",
        f"Measured by a parabola within ×{WINDOW:g} of its vertex, through {len(top)} runs that were trained "
        "by the sweep's rule.",
    )
    return Table(
        f"Predicted and measured at {study.top:.3g} FLOPs", columns, tuple(rows), notes
    ), goals


def study_tokens(table: RunTable, N: float) -> float:
    """D at N, between the runs of one budget."""
    order = np.argsort(table.params)
    return float(
        np.exp(np.interp(math.log(N), np.log(table.params[order]), np.log(table.tokens[order])))
    )


def _rates(
    said: dict[str, Any], top: list[Run], aside: Mapping[tuple[float, float], list[Run]], width: int
) -> Table:
    """The loss at other rates and batches beside the rule's, at one size."""
    rule = [r for r in top if r.experiment.size == width]
    here = np.mean([r.loss for r in rule if r.loss is not None])
    rows = []
    for (lr, batch), runs in {(1.0, 1.0): rule, **aside}.items():
        hparams, losses = runs[0].experiment.hparams, [r.loss for r in runs]
        mean = np.mean([math.nan if x is None else x for x in losses])
        rows.append(
            (
                f"×{lr:.2f}, ×{batch:.2f}", f"{hparams.lr:.3g}", format_count(hparams.batch_units),
                *(f"{x:.4f}" if x else "–" for x in losses), f"{math.log(mean / here):+.2%}",
            )
        )  # fmt: skip
    columns = (
        "rate, batch",
        "lr",
        "batch",
        *(f"run {i + 1}" for i in range(len(rule))),
        "beside the rule",
    )
    told = said["rule"] or {}
    notes = (
        f"The rule: lr {told.get('lr')}, 90 % {told.get('lr_interval')}; batch {told.get('batch_units')}, "
        f"90 % {told.get('batch_interval')}.",
    )
    return Table(f"The rule for rate and batch at width {width}", columns, tuple(rows), notes)


def _half_width(result: Result, C: float) -> float:
    """Of the 90 % interval of ln N*."""
    low, high = result.predict(C).intervals["optimal_params"] or (1.0, math.e**2)
    return math.log(high / low) / 2


def _designs(grid: Result, adaptive: Result, C: float) -> Table:
    """What both designs spent, and how well they know N* at the largest budget."""
    rows = []
    for name, result in (("grid, tunes itself", grid), ("adaptive, by its rule", adaptive)):
        at = result.predict(C)
        low, high = at.intervals["optimal_params"] or (math.nan, math.nan)
        rows.append(
            (
                name, str(len(result.runs)), f"{math.fsum(r.flops for r in result.runs):.3g}",
                f"{format_count(at.optimal_params)} ({format_count(low)}–{format_count(high)})",
                f"±{_half_width(result, C):.3f}", f"{at.expected_loss:.4f}",
            )
        )  # fmt: skip
    columns = ("design", "runs", "FLOPs", "N*", "in ln N*", "loss")
    return Table(f"Grid and adaptive, asked at {C:.3g} FLOPs", columns, tuple(rows))
