"""Is the fit right, is it fast, and does it stand large tables? Tables, JSON, and a verdict.

    python -m benchmarks.fit                  # everything, about 5 minutes with the other packages
    python -m benchmarks.fit --only accuracy
    python -m benchmarks.fit --quick          # fewer repeats and starts, without the slow package

Reads the packaged runs only. Ends with the goals that were missed and by how much, and exits with 1
where there are any. `make bench-fit` also installs the packages it is compared with.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path

if __name__ == "__main__":  # read when NumPy is first imported
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    os.environ["MKL_NUM_THREADS"] = "1"

import numpy as np

from benchmarks.accuracy import accuracy
from benchmarks.backtests import backtests
from benchmarks.report import Goal, Part
from benchmarks.size import size
from benchmarks.speed import speed

PARTS: dict[str, Part] = {
    "accuracy": accuracy,
    "backtest": backtests,
    "speed": speed,
    "size": size,
}


def main() -> int:
    """Run the parts, print and write what they found; 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=tuple(PARTS), help="one part alone")
    parser.add_argument("--quick", action="store_true", help="fewer repeats and starts")
    parser.add_argument("--output", type=Path, default=Path("outputs/bench/fit.json"))
    args = parser.parse_args()
    record: dict[str, object] = {"machine": machine(), "quick": args.quick}
    goals: list[Goal] = []
    for name, part in PARTS.items():
        if args.only in (None, name):
            tables, found = part(args.quick)
            for table in tables:
                print(f"\n{table}", flush=True)
            record[name] = {
                "tables": [t.to_dict() for t in tables],
                "goals": [g.to_dict() for g in found],
            }
            goals += found
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    missed = [g for g in goals if not g.met]
    print(f"\n{len(goals) - len(missed)} of {len(goals)} goals met; written to {args.output}")
    for goal in missed:
        print(f"MISS  {goal.what}: {goal.measured:.6g}, {goal.tolerance}, off by {goal.missed_by}")
    return 1 if missed else 0


def machine() -> dict[str, object]:
    """Where the numbers were measured."""
    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "cores": os.cpu_count(),
    }


if __name__ == "__main__":
    sys.exit(main())
