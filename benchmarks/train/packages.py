"""A step of other trainers, each in turns with the same loop by hand, in a process of its own.

The ratio to that loop is what can be compared between packages: seconds of different minutes on a
shared machine cannot.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.pairs import median_of
from benchmarks.common.peers import ROOT, ask
from benchmarks.common.report import Result, Table
from benchmarks.common.timing import duration
from benchmarks.train.engine import Text
from benchmarks.train.overhead import RUNS, TURN, WIDTHS, measure, task_of

PEERS = {"transformers": "Hugging Face Trainer", "lightning-fabric": "Lightning Fabric"}
PAIRS, QUICK_PAIRS = 40, 8
SECONDS = 240  # that a package may take
COLUMNS = (
    "parameters", "trainer", "a step", "by hand beside it", "ratio [95 %]",
    "ms a step more [95 %]", "worst loss, rel",
)  # fmt: skip


def packages(quick: bool) -> Result:
    """Every trainer at both sizes."""
    pairs = QUICK_PAIRS if quick else PAIRS
    rows = []
    for size in WIDTHS:
        rows.append((size, "flops-fit Trainer", *_cells(own(size, pairs))))
        for name, what in PEERS.items():
            said = _asked(name, size, pairs)
            if isinstance(said, str):
                rows.append((size, what, "", "", "", "", said))
            else:
                rows.append((size, f"{what} {said['version']}", *_cells(said)))
    notes = (
        f"CPU seconds on one thread, medians of {pairs} pairs from {RUNS} runs. Same model, batches, "
        "optimiser, schedule and clipping; logs, bars and checkpoints are off.",
        "'worst loss' is the largest difference of a step's training loss to the loop by hand.",
    )
    return [Table("A step of other trainers", COLUMNS, tuple(rows), notes)], []


def own(size: str, pairs: int) -> dict[str, Any]:
    """What the packages are asked, of the library."""
    m = measure(size, 1, pairs)
    return {
        "seconds": [s.cpu for s in m.engine],
        "by_hand": [s.cpu for s in m.hand],
        "worst_loss": m.worst_loss,
    }


def _asked(name: str, size: str, pairs: int) -> dict[str, Any] | str:
    """A package's answer, or why there is none."""
    task = task_of(size, pairs // RUNS)
    windows = Text(task.seq_len, held_out=2).windows(task)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "windows.npz")
        np.savez(path, tokens=windows.tokens.numpy(), order=windows.order.numpy())
        given = {"task": asdict(task), "windows": str(path), "turn": TURN[size], "runs": RUNS}
        paths = (ROOT, ROOT / "src")
        said = ask("train/peers.py", name, json.dumps(given), SECONDS, "bench-train", paths)
    return said if isinstance(said, str) else said[0]


def _cells(said: dict[str, Any]) -> tuple[str, ...]:
    took, hand = np.array(said["seconds"]), np.array(said["by_hand"])
    extra = median_of(1e3 * (took - hand))
    return (
        duration(float(np.median(took))),
        duration(float(np.median(hand))),
        median_of(took / hand).told(".3f"),
        f"{extra.median:+.2f} [{extra.low:+.2f}, {extra.high:+.2f}]",
        f"{said['worst_loss']:.2g}",
    )
