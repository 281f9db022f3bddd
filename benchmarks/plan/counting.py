"""Counting and size search: exact beside closed forms, in seconds, without memory.

python -m benchmarks.plan.counting    # ten sizes of the GPT, as JSON
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.common.report import Goal, Result, Table, at_least, at_most
from benchmarks.fit.size import peak_mib

LAYERS, VOCABULARY, CONTEXT, SAMPLES = 48, 50_304, 1024, 2
SIZES, SMALLEST, LARGEST = 10, 1e8, 1e11
SECONDS_GOAL, MEMORY_GOAL, MISS_GOAL = 60.0, 1024.0, 0.05


def measure() -> dict[str, object]:
    """Search and count ten sizes in this process: seconds, peak memory, and each count."""
    start = time.perf_counter()
    import torch

    from flops_fit.examples import gpt_loss_fn
    from flops_fit.examples.gpt import GPTConfig, GPTFactory
    from flops_fit.model import ModelSpec
    from flops_fit.objective import Objective
    from flops_fit.plan.counting import FlopsCounter

    imported = time.perf_counter()
    spec = ModelSpec(GPTFactory(LAYERS, vocab_size=VOCABULARY), "d_model")
    ids = torch.zeros(SAMPLES, CONTEXT, dtype=torch.long)
    counter, _ = FlopsCounter.from_batch(
        spec, Objective(gpt_loss_fn), "measured", (ids, ids), "tokens"
    )
    rows = []
    for wanted in np.geomspace(SMALLEST, LARGEST, SIZES):
        began = time.perf_counter()
        found = spec.nearest(float(wanted))
        assert found is not None
        searched = time.perf_counter()
        counted = counter.per_unit(found[0])
        config = GPTConfig(found[0], LAYERS, None, VOCABULARY)
        rows.append(
            {
                "wanted": float(wanted),
                "width": found[0],
                "params": found[1].total,
                "counted": counted,
                "closed": config.flops_per_token(CONTEXT),
                "best": _nearest(float(wanted), found[0]),
                "search": searched - began,
                "count": time.perf_counter() - searched,
            }
        )
    end = time.perf_counter()
    return {
        "rows": rows,
        "import": imported - start,
        "total": end - start,
        "peak_mib": peak_mib(),
        "notes": counter.notes,
    }


def _nearest(wanted: float, width: int) -> int:
    """The N nearest to ``wanted`` of every width around, by the closed form."""
    from flops_fit.errors import ModelError
    from flops_fit.examples.gpt import GPTConfig

    accepted = []
    for other in range(max(1, width - 500), width + 500):
        try:
            accepted.append(GPTConfig(other, LAYERS, None, VOCABULARY).num_params())
        except ModelError:
            continue
    return min(accepted, key=lambda n: abs(np.log(n / wanted)))


def counting(quick: bool) -> Result:
    """Ten sizes up to 1e11 parameters in a process of their own, and every kind of operation."""
    sizes, size_goals = _sizes()
    kinds, kind_goals = _kinds()
    return [sizes, kinds], [*size_goals, *kind_goals]


def _sizes() -> tuple[Table, list[Goal]]:
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "benchmarks.plan.counting"]
    out = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root)
    m = json.loads(out.stdout)
    rows = m["rows"]
    table = Table(
        f"GPT of {LAYERS} layers, vocabulary {VOCABULARY:,}, context {CONTEXT:,}: searched and counted",
        (
            "wanted N", "d_model", "N", "off, %", "nearest, %", "FLOPs per token",
            "off its closed form", "search, s", "count, s",
        ),
        tuple(
            (
                f"{r['wanted']:.3g}",
                f"{r['width']:,}",
                f"{r['params']:,}",
                f"{100 * (r['params'] / r['wanted'] - 1):+.2f}",
                f"{100 * (r['best'] / r['wanted'] - 1):+.2f}",
                f"{r['counted']:,.0f}",
                f"{r['counted'] - r['closed']:+.0f}",
                f"{r['search']:.2f}",
                f"{r['count']:.2f}",
            )
            for r in rows
        ),
        (
            f"{m['total']:.1f} s in all, {m['import']:.1f} s of them to import torch; peak memory "
            f"{m['peak_mib']:.0f} MiB, of the interpreter and torch included.",
            "nearest: of all widths that the GPT takes, those that divide into heads.",
        ),
    )  # fmt: skip
    exact = sum(r["counted"] == r["closed"] for r in rows)
    allowed = [r for r in rows if abs(r["best"] / r["wanted"] - 1) < MISS_GOAL]
    return table, [
        at_most("ten sizes: seconds", m["total"], SECONDS_GOAL),
        at_most("ten sizes: peak MiB", m["peak_mib"], MEMORY_GOAL),
        at_least("sizes whose count is the closed form", exact, len(rows)),
        at_least(
            "sizes at the nearest N of all accepted",
            sum(r["params"] == r["best"] for r in rows),
            SIZES,
        ),
        at_most(
            f"largest distance from a wanted N, of the {len(allowed)} that can be within 5 %",
            max(abs(r["params"] / r["wanted"] - 1) for r in allowed),
            MISS_GOAL,
        ),
    ]


def _kinds() -> tuple[Table, list[Goal]]:
    from benchmarks.plan.closed_forms import CASES

    rows, exact = [], 0
    for name, case in CASES.items():
        counted, forward, backward = case()
        exact += counted.forward == forward and counted.backward == backward
        rows.append(
            (
                name,
                f"{counted.forward:,.0f}",
                f"{counted.forward / forward:.6f}",
                f"{counted.backward:,.0f}",
                f"{counted.backward / backward:.6f}",
                f"{counted.backward / counted.forward:.3f}",
            )
        )
    columns = ("what", "forward", "/ closed form", "backward", "/ closed form", "back / forward")
    return Table("Counted FLOPs beside closed forms", columns, tuple(rows)), [
        at_least("operations and models whose count is the closed form", exact, len(CASES))
    ]


if __name__ == "__main__":
    print(json.dumps(measure()))
