"""A store of ten thousand runs: what opening, examining and exporting it costs, and a run's record.

python -m benchmarks.execute.store_size
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.command import run
from benchmarks.common.report import Part, Result, Table, at_most
from flops_fit.execute import InProcessExecutor
from flops_fit.hparams import HParams
from flops_fit.records import Experiment, ParamCount, Run
from flops_fit.store import Recorded, Store, examine, recorded_runs, write_runs
from flops_fit.sweep import run_experiments
from flops_fit.view import SilentView

RUNS, OPEN_GOAL, REPEATS = 10_000, 2.0, 5


def experiments(n: int) -> list[Experiment]:
    """Runs as a sweep of a GPT has them, which differ in their seeds."""
    params = ParamCount(12_345_678, 11_000_000, 12_000_000, 12_345_678)
    hparams = HParams(lr=0.0012, batch_units=65536, warmup=0.02, final=0.1, recipe="default")
    plain = Experiment(
        "examples.GPT", {"num_layers": 12, "vocab_size": 50257}, 384, params, budget=1e18,
        tokens=2 * 10**9, steps=30_000, batch_size=64, units_per_sample=1024.0, unit="tokens",
        flops_per_unit=5e8, flops_per_unit_6nd=6e8, hparams=hparams, seed=0, repeat=0,
        fingerprint="0123456789abcdef", epochs=0.5,
    )  # fmt: skip
    return [replace(plain, seed=i) for i in range(n)]


def answer(experiment: Experiment, report: Any = None) -> Run:
    """What a task would say at once."""
    spent = experiment.flops
    return Run(experiment, "completed", loss=2.5, loss_se=0.01, tokens=2 * 10**9, flops=spent)


def fill(store: Store, asked: Sequence[Experiment]) -> None:
    """Records as they are published, without waiting for the disk for each of them."""
    for experiment in asked:
        folder = store.run_dir(experiment.id)
        folder.mkdir()
        record = {"schema": 2, **answer(experiment).to_dict()}
        (folder / "run.json").write_text(json.dumps(record, indent=1))


def opening(quick: bool) -> Result:
    """Seconds until all finished runs are read and verified, the files in the page cache."""
    n, cpu, times = RUNS, [], {"open and read all": [], "doctor": [], "export to CSV": []}
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(Path(folder) / "out")
        store.write_plan(experiments(n))
        fill(store, experiments(n))
        for _ in range(2 if quick else REPEATS):
            asked = experiments(n)  # ids are computed anew, as by a new process
            began, cpu_began = time.perf_counter(), time.process_time()
            found = Store.open(store.path).finished(asked)
            read = time.perf_counter()
            cpu.append(time.process_time() - cpu_began)
            sound = examine(store.path).sound
            examined = time.perf_counter()
            write_runs(recorded_runs(store.path), store.path / "runs.csv")
            ended = time.perf_counter()
            assert len(found) == n
            assert sound
            times["open and read all"].append(read - began)
            times["doctor"].append(examined - read)
            times["export to CSV"].append(ended - examined)
    rows = tuple(
        (what, f"{np.median(t):.2f}", f"{min(t):.2f} to {max(t):.2f}") for what, t in times.items()
    )
    note = f"Of opening, {np.median(cpu):.2f} s on the CPU; the rest is waiting for disk and cores."
    table = Table(f"A folder of {n:,} runs", ("what", "seconds", "range"), rows, (note,))
    goal = at_most(
        f"seconds to open {n:,} runs", float(np.median(times["open and read all"])), OPEN_GOAL
    )
    return [table], [goal]


def recording(quick: bool) -> Result:
    """Milliseconds that a run's lease, record and bookkeeping take, in this process."""
    n = 200 if quick else 2000
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(Path(folder) / "task")
        recorded = Recorded(answer, store.path)
        began = time.perf_counter()
        for experiment in experiments(n):
            recorded(experiment)
        rows.append(("lease, record, release", f"{(time.perf_counter() - began) / n * 1e3:.2f}"))
        store = Store.open(Path(folder) / "sweep")
        began = time.perf_counter()
        run_experiments(experiments(n), answer, InProcessExecutor(), store, SilentView())
        rows.append(("the same in a sweep", f"{(time.perf_counter() - began) / n * 1e3:.2f}"))
    return [Table(f"Recording, {n:,} runs", ("what", "ms a run"), tuple(rows))], []


PARTS: dict[str, Part] = {"opening": opening, "recording": recording}


if __name__ == "__main__":
    sys.exit(run(PARTS, __doc__, "store"))
