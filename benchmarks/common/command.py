"""A benchmark's command line: its parts as tables and JSON, and a verdict in the exit status."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks.common.report import Goal, IntervalGoal, Part


def run(
    parts: Mapping[str, Part],
    doc: str,
    name: str,
    options: argparse.ArgumentParser | None = None,
    **versions: str,
) -> int:
    """Run the parts, print and write what they found; 1 where a goal is missed.

    ``doc`` is that of the benchmark's module, whose first line says what it asks; ``name`` is that
    of its file of results; ``options`` are its own, which it reads itself. Each part is written when
    it ends, and one alone keeps the others that the file has from the same machine and versions.
    """
    parser = argparse.ArgumentParser(
        description=doc.split("\n")[0], parents=[options] if options else []
    )
    parser.add_argument("--only", choices=tuple(parts), help="one part alone")
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--output", type=Path, default=Path(f"outputs/bench/{name}.json"))
    args = parser.parse_args()
    record: dict[str, object] = {"machine": machine() | versions, "quick": args.quick}
    if args.only and args.output.is_file():
        before = json.loads(args.output.read_text())
        if all(before[key] == value for key, value in record.items()):
            record = before
    args.output.parent.mkdir(parents=True, exist_ok=True)
    goals: list[Goal | IntervalGoal] = []
    for name, part in parts.items():
        if args.only in (None, name):
            tables, found = part(args.quick)
            for table in tables:
                print(f"\n{table}", flush=True)
            record[name] = {
                "tables": [t.to_dict() for t in tables],
                "goals": [g.to_dict() for g in found],
            }
            args.output.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
            goals += found
    met = sum(g.met for g in goals)
    print(f"\n{met} of {len(goals)} goals met; written to {args.output}")
    for word, outcome in (("OPEN", "inconclusive"), ("MISS", "missed")):
        for goal in goals:
            if goal.outcome == outcome:
                value = f"{goal.measured:.6g}, {goal.tolerance}, off by {goal.missed_by}"
                print(f"{word}  {goal.what}: {value}")
    return int(any(g.outcome == "missed" for g in goals))


def with_folder() -> argparse.ArgumentParser:
    """The option that names a folder of public sweeps, which are not packaged."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument(
        "--data",
        type=Path,
        default=Path(os.environ.get("FLOPS_FIT_SWEEPS", "data")),
        help="a folder of CSV files (or set FLOPS_FIT_SWEEPS)",
    )
    return options


def machine() -> dict[str, object]:
    """Where the numbers were measured."""
    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "cores": os.cpu_count(),
    }
