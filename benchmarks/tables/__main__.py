"""Which of fifty files, written as tools and people write them, are read without an option, and rightly.

Each holds the same sweep under the headings and in the units of its tool. It is read where N, D, C and the
loss come out in parameters, tokens, FLOPs and the unit of the loss that the file has. What lacks a column
has to be refused with the likeliest mapping, which then reads it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

import flops_fit
from benchmarks.common.command import run
from benchmarks.common.report import Result, Table, at_least
from benchmarks.tables.files import FILES, LOSS, RUNS, SPENT, C, D, File, N
from flops_fit.errors import TableError

_GOAL = 44


def wrong(file: File, runs: flops_fit.RunTable) -> str:
    """What of the runs is not as the file has it; empty where all is."""
    flops = {"spent": C, "budget": SPENT}.get(file.flops, 6 * N * D)
    tokens = flops / (6 * N) if file.derived else D
    expected = {"params": N, "tokens": tokens, "flops": flops, "loss": file.loss * LOSS}
    if len(runs) != RUNS:
        return f"{len(runs)} of {RUNS} runs"
    order = np.argsort(runs.params), np.argsort(N)  # a fit sorts its runs
    read = {n: getattr(runs, n)[order[0]] for n in expected}
    off = {n: np.max(np.abs(read[n] / v[order[1]] - 1)) for n, v in expected.items()}
    limits = {n: file.rtol if n != "loss" else 1e-3 for n in off}
    return ", ".join(f"{n} by {off[n]:.2g}" for n in off if not off[n] <= limits[n])


def outcome(file: File, folder: Path) -> tuple[bool, str]:
    """Whether a file is read rightly, or refused rightly, and in which words."""
    path = folder / file.name
    path.write_bytes(file.content)
    try:
        fit = flops_fit.fit_runs(path)
    except TableError as error:
        message = str(error)
        said = all(word in message for word in file.refused) and bool(file.refused)
        proposed = all(f"{n!r}: {h!r}" in message for n, h in file.mapping.items())
        if said and proposed and len(file.mapping) > 1:
            off = wrong(file, flops_fit.RunTable.read(path, file.mapping))
            return not off, f"refused; the mapping reads it{off and f', but {off}'}"
        return said and proposed, message.replace(str(folder), "")[:200]
    if file.refused:
        return False, "read, though it lacks a column"
    off = wrong(file, fit.runs)
    trusted = "" if fit.trust == "ok" else f" (trust {fit.trust})"
    return not off, f"off: {off}" if off else f"read{trusted}"


def tables(quick: bool) -> Result:
    """Every file, and how many of those with all columns were read."""
    with tempfile.TemporaryDirectory() as folder:
        found = {tool: outcome(file, Path(folder)) for tool, file in FILES.items()}
    rows = tuple((t, "yes" if good else "NO", words) for t, (good, words) in found.items())
    full = [good for t, (good, _) in found.items() if not FILES[t].refused]
    refused = [good for t, (good, _) in found.items() if FILES[t].refused]
    table = Table(f"{len(FILES)} files as tools write them", ("file", "right", "what"), rows)
    goals = [
        at_least("files read rightly without an option", sum(full), _GOAL),
        at_least("files refused with what they lack", sum(refused), len(refused)),
    ]
    return [table], goals


if __name__ == "__main__":
    sys.exit(run({"tables": tables}, __doc__, "tables"))
