"""What a run costs that is a command, against a function; and how long results take to collect."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from statistics import median

import flops_fit
from benchmarks.common.report import Goal, Result, Table, at_most
from benchmarks.execute.store_size import answer
from flops_fit.execute import Executor, InProcessExecutor, PoolExecutor, Task

COLLECT_GOAL = 5.0  # seconds for a thousand folders


def commands(quick: bool) -> Result:
    """`true` in place of a trainer, in one process and in a pool; then a thousand exported runs."""
    sizes = list(range(256, 256 + 8 * (40 if quick else 200), 8))
    known = flops_fit.ModelSizes({size: 48 * size**2 for size in sizes}, units_per_sample=256)
    budgets = [1e15, 2e15, 4e15, 8e15, 1.6e16]
    plan = flops_fit.plan_sweep(known, compute_budgets=budgets, sizes=sizes)
    few = flops_fit.plan_sweep(known, compute_budgets=budgets[:1], sizes=sizes[:20])
    tasks = {"function": answer, "command": flops_fit.CommandTask("true", lambda *_: 1.0)}
    places = {"inprocess": InProcessExecutor, "pool": lambda: PoolExecutor(workers=2, threads=1)}
    rows = []
    for place, make in places.items():
        each = {
            name: median(_ms(few, task, make()) for _ in range(3)) for name, task in tasks.items()
        }
        rows.append((place, *(f"{ms:.1f}" for ms in each.values())))
    table = Table("A run that takes no time", ("where", "function, ms", "command, ms"), tuple(rows))
    collected, goal = _collected(plan)
    return [table, collected], [goal]


def _ms(plan: flops_fit.SweepPlan, task: Task, executor: Executor) -> float:
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        runs = flops_fit.run_sweep(plan, task, executor=executor, output_dir=folder, progress=False)
        assert all(run.state == "completed" for run in runs)
        return 1e3 * (time.perf_counter() - began) / len(runs)


def _collected(plan: flops_fit.SweepPlan) -> tuple[Table, Goal]:
    with tempfile.TemporaryDirectory() as base:
        folder, seconds = Path(base) / "sweep", []
        plan.export("bash", folder, "train {size} {run_dir}")
        for e in plan.experiments:
            work = folder / "runs" / e.id / "work"
            work.mkdir(parents=True)
            (work / "result.json").write_text(json.dumps({"val_loss": 2.0}))
            (work.parent / "exit_code").write_text("0\n")
            (work.parent / "output.txt").write_text("step 1, loss 3\n" * 200)
        for _ in range(2):
            began = time.perf_counter()
            assert len(flops_fit.collect(folder)) == len(plan)
            seconds.append(time.perf_counter() - began)
    n, words = len(plan), [f"{s:.2f}" for s in seconds]
    table = Table("Exported runs", ("folders", "collected, s", "again, s"), ((str(n), *words),))
    return table, at_most(f"seconds to collect {n} folders", seconds[0], COLLECT_GOAL)
