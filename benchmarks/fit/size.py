"""Large tables: seconds and peak memory of reading, fitting and predicting, each in a new process.

python -m benchmarks.fit.size runs.csv    # one table, as JSON
"""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.common.report import Goal, Result, Table, at_most
from benchmarks.common.timing import duration
from flops_fit.fit import fit_runs
from flops_fit.laws import Kappa
from flops_fit.table import RunTable

LAW = Kappa(1.7, 1.2e4, 9.5e4, 0.7, 0.75, 0.5)
BUDGETS, NOISE, TARGET = 40, 0.005, 1e24
ROWS = (1_000, 10_000, 100_000)
SECONDS_GOAL, MEMORY_GOAL, GROWTH_GOAL = 10.0, 1024.0, 1.1


def write_runs(path: Path, rows: int) -> None:
    """A noisy sweep of the known law: 40 budgets, sizes within ×8 of each one's optimum."""
    rng = np.random.default_rng(rows)
    C = np.repeat(np.geomspace(1e18, 1e22, BUDGETS), rows // BUDGETS)
    reach = np.tile(np.geomspace(1 / 8, 8, rows // BUDGETS), BUDGETS)
    N = LAW.optimal(C).params * reach
    D = C / (6 * N)
    loss = LAW.loss(N, D) * np.exp(NOISE * rng.normal(size=len(N)))
    with path.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["params", "tokens", "flops", "loss"])
        writer.writerows(zip(N.tolist(), D.tolist(), C.tolist(), loss.tolist(), strict=True))


def measure(path: Path) -> dict[str, float]:
    """CPU seconds of each step in this process, its peak memory, and N* against the truth."""
    start = time.process_time()
    table = RunTable.read(path)
    loaded = time.process_time()
    fit = fit_runs(table)
    fitted = time.process_time()
    best = fit.predict(TARGET).optimal_params
    end = time.process_time()
    return {
        "load": loaded - start,
        "fit": fitted - loaded,
        "predict": end - fitted,
        "total": end - start,
        "peak_mib": peak_mib(),
        "n_error": best / LAW.optimal(TARGET).params - 1,
    }


def peak_mib() -> float:
    """Peak resident memory of this process in MiB."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS


def size(quick: bool) -> Result:
    """Growing tables, and how time grows from one to the next."""
    rows, goals, totals = [], [], []
    counts = ROWS[:2] if quick else ROWS
    with tempfile.TemporaryDirectory() as folder:
        for count in counts:
            path = Path(folder, f"{count}.csv")
            write_runs(path, count)
            command = [sys.executable, "-m", "benchmarks.fit.size", str(path)]
            root = Path(__file__).resolve().parents[2]
            out = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root)
            m = json.loads(out.stdout)
            growth = ""
            if totals:
                power = math.log(m["total"] / totals[-1]) / math.log(count / counts[len(rows) - 1])
                growth = f"rows^{power:.2f}"
                name = (
                    f"{counts[len(rows) - 1]:,} to {count:,} rows: exponent of the total's growth"
                )
                goals.append(at_most(name, power, GROWTH_GOAL))
            totals.append(m["total"])
            steps = (duration(m[k]) for k in ("load", "fit", "predict", "total"))
            error = f"{100 * m['n_error']:+.2f}"
            rows.append((f"{count:,}", *steps, growth, f"{m['peak_mib']:.0f}", error))
            goals += _limits(count, m)
    columns = (
        "runs", "load CSV", "fit and diagnose", "predict", "total", "growth", "peak MiB", "N* off, %",
    )  # fmt: skip
    notes = (
        f"{LAW.formula}, {BUDGETS} budgets, {100 * NOISE:g} % noise, defaults; N* at {TARGET:.0e}.",
        "CPU seconds. Peak memory includes the interpreter, NumPy and whatever the fit imports.",
    )
    return [Table("Size: load, fit, diagnose", columns, tuple(rows), notes)], goals


def _limits(count: int, m: dict[str, float]) -> list[Goal]:
    return [
        at_most(f"{count:,} rows: seconds", m["total"], SECONDS_GOAL),
        at_most(f"{count:,} rows: peak MiB", m["peak_mib"], MEMORY_GOAL),
    ]


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]))))
