"""How deep should the demo's model be? One sweep over width and depth at equal compute, really trained."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import flops_fit
from benchmarks.common.report import Goal, Result, Table, at_least
from flops_fit.cli.sweep_commands import SEQ_LEN
from flops_fit.execute import PoolExecutor

BUDGETS = (2.5e10, 8e10, 2.5e11)
LAYERS = (1, 2, 4, 8)
FEWEST = 18  # runs


def depth(folder: Path, quick: bool) -> Result:
    """Depths of a GPT on the State of the Union text, drawn over sizes and budgets."""
    torch.set_num_threads(1)
    library = flops_fit.examples
    plan = flops_fit.plan_sweep(
        library.GPT, "d_model", {"vocab_size": 256, "max_seq_len": SEQ_LEN},
        library.SOTUDataset("train", seq_len=SEQ_LEN), library.gpt_loss_fn,
        list(BUDGETS[: 2 if quick else None]), device="cpu", batch_size=16,
        eval_dataset=library.SOTUDataset("validation", seq_len=SEQ_LEN),
        design=flops_fit.Grid(axes={"num_layers": list(LAYERS)}),
    )  # fmt: skip
    with TemporaryDirectory() as base:
        pool = PoolExecutor(workers=2, threads=1)
        runs = flops_fit.run_sweep(plan, output_dir=base, executor=pool, progress=False)
    fit = flops_fit.fit_runs(runs, flops_per_unit=plan.flops)
    rows = []
    for C in BUDGETS[: 2 if quick else None]:
        found = fit.axis("num_layers", compute=C)
        best = f"{found.best:.3g}" if isinstance(found.best, float) else found.best
        span = "–" if found.interval is None else "{:.3g}–{:.3g}".format(*found.interval)
        excess = (
            f"{100 * x:.2f} ({100 * low:.2f}–{100 * high:.2f})"
            for x, (low, high) in found.excess.values()
        )
        rows.append((f"{C:.2g}", f"{best} ({span})", *excess, f"{found.p_value:.2g}"))
    columns = ("FLOPs", "best depth (90 %)", *(f"{v} layers, %" for v in LAYERS), "p")
    done = sum(run.state == "completed" for run in runs)
    notes = (
        f"{done} runs, {sum(r.flops for r in runs):.3g} FLOPs; trust: {fit.trust}.",
        str(fit.law),
    )
    goals: list[Goal] = [at_least("runs completed", done, min(FEWEST, len(plan)))]
    return [Table("Loss above the best depth", columns, tuple(rows), notes)], goals
