"""A small sweep of real mixtures of experts: the bundled GPT on the demo's text, 1, 4 and 8 experts.

python -m benchmarks.beyond.mixtures           # trains 36 runs (half an hour on a core)
python -m benchmarks.beyond.mixtures --quick   # two tiny budgets
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.common.threads import one_thread

if __name__ == "__main__":  # read when NumPy is first imported
    one_thread()

import flops_fit
from benchmarks.common.command import run
from benchmarks.common.report import Result, Table
from flops_fit.examples import GPT, MixtureGPT, SOTUDataset, gpt_loss_fn

FOLDER = Path("outputs/bench-mixtures")
BUDGETS, QUICK_BUDGETS = [1e11, 3e11, 1e12], [1e10, 2e10]
WIDTHS = [24, 32, 48, 64]
EXPERTS = (1, 4, 8)
_SEQ_LEN, _BATCH = 64, 512


def trained(folder: Path, budgets: list[float]) -> list[flops_fit.Run]:
    """The runs of all three; those of an earlier call stay."""
    runs = []
    for experts in EXPERTS:
        model: Any = GPT if experts == 1 else MixtureGPT
        plan = flops_fit.plan_sweep(
            model,
            "d_model",
            {} if experts == 1 else {"num_experts": experts},
            dataset=SOTUDataset("train", _SEQ_LEN),
            eval_dataset=SOTUDataset("validation", _SEQ_LEN),
            loss_fn=gpt_loss_fn,
            compute_budgets=budgets,
            sizes=WIDTHS,
            hparams={"batch_units": _BATCH},
            device="cpu",
        )
        out = folder / f"experts-{experts}"
        runs += flops_fit.run_sweep(plan, output_dir=out, progress=False)
    return runs


def mixtures(quick: bool) -> Result:
    """What the runs say, and what they say of the best number of experts."""
    runs = trained(FOLDER, QUICK_BUDGETS if quick else BUDGETS)
    losses: dict[tuple[float, int], dict[float, float]] = {}
    for done in runs:
        e = done.experiment
        if done.loss is not None:
            losses.setdefault((e.budget, e.size), {})[e.params.total / e.params.active] = done.loss
    rows = [
        (f"{C:.2g}", str(width), *(f"{S:.2f}: {loss:.4f}" for S, loss in sorted(cell.items())))
        for (C, width), cell in sorted(losses.items())
    ]
    columns = ("FLOPs", "width", *(f"{E} experts" for E in EXPERTS))
    measured = Table("Losses of real mixtures, behind their N_total/N_active", columns, tuple(rows))
    fit = flops_fit.fit_runs(runs, law="experts")
    answers = [fit.best_experts(C, cap) for C in (1e12, 1e13) for cap in (None, 1e5)]
    notes = tuple(
        line for text in (fit.summary(), *map(str, answers)) for line in text.splitlines()
    )
    said = Table("What they say", ("trust", "runs"), ((fit.trust, str(len(fit.runs))),), notes)
    return [measured, said], []


if __name__ == "__main__":
    sys.exit(run({"mixtures": mixtures}, __doc__ or "", "mixtures"))
