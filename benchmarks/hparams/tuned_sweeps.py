"""What tuning does to the answer: the demo's sweep with the recipe as it is, after a pilot, per size."""

from __future__ import annotations

import math
import time

from benchmarks.common.report import Goal, Table, at_most
from benchmarks.common.report import Result as Found
from benchmarks.hparams.transfer import FOLDER
from flops_fit import Result, find_optimal
from flops_fit.cli.sweep_commands import SIZES, demo_sweep
from flops_fit.execute import PoolExecutor
from flops_fit.text import format_count
from flops_fit.tune import Tune

QUICK = {3e9: [8, 12, 16, 24], 6e9: [8, 12, 16, 24], 1.2e10: [12, 16, 24, 32]}
FURTHER = 10.0


def sweeps(quick: bool) -> Found:
    """Three sweeps of the same sizes and budgets, and what each says at the top and beyond."""
    sizes = QUICK if quick else SIZES
    found: dict[str, Result] = {}
    seconds: dict[str, float] = {}
    for kind in ("none", "pilot", "per-size"):
        began = time.perf_counter()
        result = find_optimal(
            **demo_sweep(sizes),
            hparams="default-1",  # not fitted to such runs
            tune=Tune(kind),
            executor=PoolExecutor(workers=2, threads=1),
            output_dir=FOLDER / f"sweep-{kind}{'-quick' if quick else ''}",
        )
        assert isinstance(result, Result)
        found[kind], seconds[kind] = result, time.perf_counter() - began
        result.plot(show=False)
        result.report()
        print(result, flush=True)
        if result.tuning is not None:
            print(result.tuning, flush=True)
    top = max(sizes)
    columns = (
        "tune", "FLOPs of tuning", "share", "FLOPs of the sweep", "a", "κ",
        f"N* at {top:.0e}", f"N* at {FURTHER * top:.0e}", f"loss at {top:.0e}", "scatter", "seconds",
    )  # fmt: skip
    rows = tuple(_row(kind, r, top, seconds[kind]) for kind, r in found.items())
    notes = (
        "The demo's 27 runs on the State of the Union addresses, two at a time; seconds are of this "
        "call, which keeps what is on record.",
    )
    return [
        Table("The demo's sweep by tuning", columns, rows, notes),
        _losses(found),
        *(_cells(kind, r) for kind, r in found.items() if r.tuning is not None),
    ], _goals(found)


def _row(kind: str, r: Result, top: float, seconds: float) -> tuple[str, ...]:
    tuning = r.tuning
    here, there = r.predict(top), r.predict(FURTHER * top)
    a = r.fit.approaches[2].a
    return (
        kind,
        "0" if tuning is None else f"{tuning.flops:.3g}",
        "0" if tuning is None else f"{tuning.share:.1%}",
        f"{math.fsum(x.flops for x in r.runs):.3g}",
        "–" if a is None else f"{a:.3f}",
        f"{r.fit.law.params.get('kappa', 1.0):.2f}",
        _with_interval(here, "optimal_params"),
        _with_interval(there, "optimal_params"),
        _with_interval(here, "expected_loss"),
        f"{r.fit.noise_sd:.2%}",
        f"{seconds:.0f}",
    )


def _with_interval(prediction: object, name: str) -> str:
    value, span = getattr(prediction, name), prediction.intervals[name]  # type: ignore[attr-defined]
    shown = (lambda x: f"{x:.3f}") if name == "expected_loss" else format_count
    return shown(value) if span is None else f"{shown(value)} ({shown(span[0])}–{shown(span[1])})"


def _losses(found: dict[str, Result]) -> Table:
    """Run by run, how much lower tuned losses are."""
    none = {(r.experiment.budget, r.experiment.size): r.loss for r in found["none"].runs}
    rows = []
    for (budget, size), loss in none.items():
        row = [f"{budget:.2g}", str(size), "–" if loss is None else f"{loss:.4f}"]
        for kind in ("pilot", "per-size"):
            run = next(
                (
                    r
                    for r in found[kind].runs
                    if (r.experiment.budget, r.experiment.size) == (budget, size)
                ),
                None,
            )
            known = run is not None and run.loss is not None and loss is not None
            row.append(f"{run.loss / loss - 1:+.2%}" if known else "–")  # type: ignore[union-attr, operator]
        rows.append(tuple(row))
    columns = ("FLOPs", "width", "loss, none", "pilot", "per-size")
    return Table("Losses of the runs, and how tuned ones differ", columns, tuple(rows))


def _cells(kind: str, r: Result) -> Table:
    assert r.tuning is not None
    t = r.tuning
    rows = tuple(
        (
            str(c.cell.size), format_count(c.params), format_count(c.units), f"{c.recipe_lr:.4f}",
            "–" if (f := t.lr.cells[i].factor) is None else f"{c.lr * f:.4f}",
            f"{c.lr * t.factor(c.params):.4f}",
            _share(t.untuned_regret(i)), _share(t.tuned_regret(i)),
            f"{c.batch_units:.0f}", "–" if c.noise_scale is None else format_count(c.noise_scale),
        )
        for i, c in enumerate(t.cells)
    )  # fmt: skip
    columns = (
        "width", "N", "D", "lr of the recipe", "best", "used", "regret untuned", "tuned",
        "batch", "noise scale",
    )  # fmt: skip
    sd = (
        "not measured"
        if t.seed_sd is None
        else f"{t.seed_sd:.2%} ({t.seed_dof} degrees of freedom)"
    )
    notes = (f"Noise of a seed: {sd}. Batch ×{t.recipe.batch:g}.", *map(str, t.diagnostics))
    return Table(f"Trials: {kind}", columns, rows, notes)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"


def _goals(found: dict[str, Result]) -> list[Goal]:
    pilot = found["pilot"].tuning
    assert pilot is not None
    return [at_most("share of all FLOPs that the pilot took", pilot.share, 0.15)]
