"""What does it gain to run several at a time, and what does each place cost a run?

    python -m benchmarks.execute                  # everything, 36 minutes on two cores
    python -m benchmarks.execute --only overhead
    python -m benchmarks.execute --quick          # fewer and shorter runs

Exits with 1 where a goal is missed.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.common.command import run
from benchmarks.common.report import Goal, Part, Result, Table, at_least, at_most
from benchmarks.execute.commands import commands
from benchmarks.execute.sharding import sharding
from benchmarks.execute.store_size import answer, experiments, opening, recording
from flops_fit import SweepPlan, plan_sweep, run_sweep
from flops_fit.cli.sweep_commands import SIZES as DEMO
from flops_fit.cli.sweep_commands import demo_sweep
from flops_fit.execute import Executor, InProcessExecutor, PoolExecutor, RayExecutor, SlurmExecutor
from flops_fit.records import Run

SPEEDUP_GOAL, GROWTH_GOAL = 1.7, 20.0  # times, MB
SIZES = {4e9: [8, 16, 24, 32], 8e9: [12, 16, 24, 32, 40], 1.6e10: [16, 24, 32, 40, 56]}
SMALLER = {c: DEMO[c] for c in sorted(DEMO)[:-1]}
QUICK = {1e9: [8, 16], 2e9: [12, 24]}
MOCKS = {"inprocess": 2000, "pool": 2000, "ray": 2000, "slurm, local": 50}
QUICK_MOCKS = {"inprocess": 200, "pool": 100, "ray": 50, "slurm, local": 4}


def places(folder: Path) -> dict[str, Callable[[], Executor]]:
    """Two runs at a time with one thread each, but for the one process."""
    return {
        "inprocess": InProcessExecutor,
        "pool": lambda: PoolExecutor(workers=2, threads=1),
        "ray": lambda: RayExecutor(options={"num_cpus": 2}),
        "slurm, local": lambda: SlurmExecutor(folder / "jobs", cluster="local", max_jobs=2),
    }


def speed(quick: bool) -> Result:
    """The demo's sweep without its largest budget, two at a time and one after another, by the clock."""
    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    torch.set_num_threads(1)
    plan = plan_sweep(**demo_sweep(QUICK if quick else SMALLER), device="cpu")
    walls = {}
    with tempfile.TemporaryDirectory() as base:
        here = places(Path(base))
        for name in ("pool", "inprocess", "ray", "inprocess, 2 threads"):
            torch.set_num_threads(2 if "2 threads" in name else 1)
            folder, make = Path(base) / name, here[name.partition(",")[0]]
            _, walls[name] = _timed(plan, make(), folder)
    torch.set_num_threads(1)
    alone, n = walls["inprocess"], len(plan.experiments)
    rows = tuple((name, f"{w:.1f}", f"{alone / w:.2f}") for name, w in walls.items())
    extra = (walls["ray"] - walls["pool"]) / n
    notes = (f"{n} runs. Ray over pool: {extra:+.2f} s a run, its start included.", _load())
    goal = at_least("pool against one process of one thread", alone / walls["pool"], SPEEDUP_GOAL)
    columns = ("where", "seconds", "times as fast")
    table = Table("The demo's smaller budgets on two cores", columns, rows, notes)
    return [table], [goal]


def digits(quick: bool) -> Result:
    """A cut-down demo sweep everywhere, to the last digit."""
    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    torch.set_num_threads(1)
    plan = plan_sweep(**demo_sweep(QUICK if quick else SIZES), device="cpu")
    with tempfile.TemporaryDirectory() as base:
        made = {
            name: _timed(plan, make(), Path(base) / name)
            for name, make in places(Path(base)).items()
        }
    one = _digits(made["inprocess"][0])
    rows = tuple(
        (name, f"{wall:.1f}", str(_digits(runs) == one)) for name, (runs, wall) in made.items()
    )
    notes = (
        f"{len(plan.experiments)} runs, two at a time but in-process; seconds include each place's start.",
        _load(),
    )  # fmt: skip
    others = [name for name, (runs, _) in made.items() if _digits(runs) != one]
    table = Table("A short sweep everywhere", ("where", "seconds", "same digits"), rows, notes)
    return [table], [at_most("places whose digits differ", len(others), 0)]


def _timed(plan: SweepPlan, executor: Executor, folder: Path) -> tuple[list[Run], float]:
    began = time.perf_counter()
    runs = run_sweep(plan, executor=executor, output_dir=folder, progress=False)
    return runs, time.perf_counter() - began


def _digits(runs: list[Run]) -> list[tuple[object, ...]]:
    return [
        (r.experiment.id, r.state, r.loss, r.loss_se, r.train_loss, r.gradient_norm) for r in runs
    ]


def overhead(quick: bool) -> Result:
    """Runs that take no time: milliseconds each, and what the driver has in memory."""
    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    rows, goals = [], []
    with tempfile.TemporaryDirectory() as base:
        for name, make in places(Path(base)).items():
            row, goal = _through(name, make(), (QUICK_MOCKS if quick else MOCKS)[name])
            rows.append(row)
            goals.append(goal)
    columns = ("where", "runs", "ms a run", "first run, s", "MB at 1/10", "half", "end")
    notes = (
        "Two at a time; resident memory of the driver. Slurm's local jobs each start a Python, so "
        "there are fewer.", _load(),
    )  # fmt: skip
    return [Table("Runs that take no time", columns, tuple(rows), notes)], goals


def _through(name: str, executor: Executor, n: int) -> tuple[tuple[str, ...], Goal]:
    """The first run starts what there is to start and is told apart."""
    asked = experiments(n + 1)
    began = time.perf_counter()
    executor.start(answer, lambda progress: None)
    memory: list[float] = []
    try:
        executor.submit(asked[0])
        came = len(executor.poll())
        first = time.perf_counter() - began
        began = time.perf_counter()
        for experiment in asked[1:]:
            executor.submit(experiment)
        while came <= n:
            came += len(ended := executor.poll())
            assert all(r.state == "completed" for r in ended)
            marks = (n // 10, n // 2, n)
            memory += [_resident()] * (sum(came > m - (m == n) for m in marks) - len(memory))
        each = (time.perf_counter() - began) / n
    finally:
        executor.close()
    row = (name, str(n), f"{1e3 * each:.2f}", f"{first:.2f}", *(f"{m:.0f}" for m in memory))
    return row, at_most(f"MB that the driver grows, {name}", memory[-1] - memory[0], GROWTH_GOAL)


def _resident() -> float:
    """Of this process, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _load() -> str:
    load = ", ".join(f"{v:.1f}" for v in os.getloadavg())
    return f"Load of this machine's {os.cpu_count()} cores after it: {load}."


def store(quick: bool) -> Result:
    """What benchmarks/execute/store_size.py measures."""
    tables, goals = opening(quick)
    more, others = recording(quick)
    return [*tables, *more], [*goals, *others]


PARTS: dict[str, Part] = {
    "speed": speed, "digits": digits, "overhead": overhead, "store": store, "commands": commands,
    "sharding": sharding,
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(run(PARTS, __doc__, "execute", torch=torch.__version__))
