"""Does the best rate of AdamW serve Muon, whose steps are scaled to AdamW's? And what does Muon gain?"""

from __future__ import annotations

import math
from dataclasses import replace

from benchmarks.common.report import Result, Table, at_most
from benchmarks.hparams.transfer import Task, gpt_task, losses_table, measure
from flops_fit import TrainingConfig
from flops_fit.train import muon, muon_groups

SEEDS = {16: 4, 32: 2, 64: 2}
WAYS = {
    "AdamW": TrainingConfig(),
    "Muon": TrainingConfig(optimizer=muon, param_groups=muon_groups),
}


def _task(quick: bool) -> Task:
    task = gpt_task(quick)
    kwargs = {k: v for k, v in task.arguments["model_kwargs"].items() if k != "mup_attention"}
    arguments = {**task.arguments, "model_kwargs": kwargs}
    return replace(task, arguments=arguments, seeds=task.seeds if quick else SEEDS)


def optimizers(quick: bool) -> Result:
    """Both at the same rates: best rate and lowest loss of each width."""
    task = _task(quick)
    adamw, with_muon = (
        measure(task, f"standard-{name}", training, quick) for name, training in WAYS.items()
    )
    rows, goals = [], []
    for width in task.widths:
        rates = [t.best(width) for t in (adamw, with_muon)]
        lowest = [min(t.mean(width).values()) for t in (adamw, with_muon)]
        kept = min(with_muon.mean(width), key=lambda lr, at=rates[0]: abs(math.log(lr / at)))
        cost = with_muon.mean(width)[kept] / lowest[1] - 1
        rows.append(
            (
                str(width),
                *(f"{rate:.4f}" for rate in rates),
                f"{rates[1] / rates[0]:.2f}",
                *(f"{loss:.4f}" for loss in lowest),
                f"{cost:.2%}",
            )
        )
        gain = with_muon.mean(width)[kept] / lowest[0]
        goals.append(at_most(f"width {width}: Muon at AdamW's best rate over AdamW", gain, 1.0))
    columns = (
        "width", "best lr, AdamW", "Muon", "ratio", "lowest loss, AdamW", "Muon ", "Muon at AdamW's rate",
    )  # fmt: skip
    note = (
        f"{task.units:,.0f} units in batches of {task.batch}; {task.seeds} seeds; the last column is what "
        "the rate next to AdamW's best costs Muon."
    )
    tables = [Table("Rates of AdamW and Muon", columns, tuple(rows), (note,))]
    return [*tables, losses_table(adamw), losses_table(with_muon)], goals
