"""What does stopping hopeless runs save and change? The demo's text at rates far off, really trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import flops_fit
from benchmarks.common.report import Goal, Result, Table, at_least, at_most
from flops_fit.cli.sweep_commands import demo_sweep
from flops_fit.execute import PoolExecutor
from flops_fit.records import Run

SIZES = {1e10: [8, 16, 32], 3e10: [8, 16, 32], 1e11: [16, 32, 64]}
RATES = (0.06, 0.25, 1.0, 4.0, 16.0, 64.0)  # times the default recipe's
MOST_MOVED = 1.25  # N* at the largest budget


def stopping(folder: Path, quick: bool) -> Result:
    """A sweep over sizes and rates in full, and once more with stop_hopeless=True."""
    torch.set_num_threads(1)
    sizes = dict(list(SIZES.items())[: 2 if quick else None])
    runs, fits = {}, {}
    for stop in (False, True):
        training = flops_fit.TrainingConfig(stop_hopeless=stop)
        plan = flops_fit.plan_sweep(**demo_sweep(sizes), device="cpu", training=training)
        rated = (
            replace(e, hparams=replace(e.hparams, lr=e.hparams.lr * factor))
            for e in plan.experiments
            for factor in RATES
        )
        asked = replace(plan, experiments=tuple(rated))
        with TemporaryDirectory() as base:
            pool = PoolExecutor(workers=2, threads=1)
            runs[stop] = flops_fit.run_sweep(asked, output_dir=base, executor=pool, progress=False)
        fits[stop] = flops_fit.fit_runs(runs[stop], flops_per_unit=plan.flops)
    pairs = list(zip(runs[False], runs[True], strict=True))
    lost = [(full, short) for full, short in pairs if short.state == "hopeless"]
    spent = {stop: sum(r.flops for r in each) for stop, each in runs.items()}
    rows = [_row(full, short) for full, short in lost]
    at = max(sizes)
    answers = [
        (name, f"{best.params:.3g}", f"{best.loss:.4g}", fits[stop].trust)
        for name, stop in (("in full", False), ("stopped", True))
        for best in [fits[stop].optimal(at)]
    ]
    sure = sum(full.loss is None or full.loss >= (short.loss_at_least or 0) for full, short in lost)
    moved = fits[True].optimal(at).params / fits[False].optimal(at).params
    notes = (
        f"{len(lost)} of {len(pairs)} runs stopped; {100 * (1 - spent[True] / spent[False]):.1f} % of "
        f"{spent[False]:.3g} FLOPs saved.",
    )
    columns = ("FLOPs", "width", "rate", "after", "known of its loss", "in full")
    tables = [
        Table("Runs that were stopped", columns, tuple(rows), notes),
        Table(f"The answer at {at:.2g} FLOPs", ("sweep", "N*", "loss", "trust"), tuple(answers)),
    ]
    goals: list[Goal] = [
        at_least(
            "bounds that hold, of those claimed", sure / max(len(lost), 1), 1.0 if lost else 0
        ),
        at_most("factor by which N* moves", float(max(moved, 1 / moved)), MOST_MOVED),
    ]
    return tables, goals


def _row(full: Run, short: Run) -> tuple[str, ...]:
    e = short.experiment
    loss = "diverged" if full.loss is None else f"{full.loss:.3f}"
    share = f"{100 * short.flops / e.flops:.0f} %"
    known = f"at least {short.loss_at_least:.3f}"
    return f"{e.budget:.2g}", str(e.size), f"{e.hparams.lr:.2g}", share, known, loss
