"""Does any PyTorch model, data and loss get the right plan and train, or the right refusal?

    python -m benchmarks.models                  # everything, about 16 minutes on two cores
    python -m benchmarks.models --only families
    python -m benchmarks.models --quick          # one size of each kind

Ends with the goals that were missed and by how much, and exits with 1 where there are any.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType

from benchmarks.common.threads import one_thread

if __name__ == "__main__":  # read when NumPy is first imported
    one_thread()

import torch
import transformers

from benchmarks.common.command import run
from benchmarks.common.report import Goal, Part, Result, Table, at_least, at_most
from benchmarks.models import data, families, interfaces, layers, losses
from benchmarks.models.healthy import healthy
from benchmarks.models.judge import Verdict, judge
from benchmarks.models.kinds import KINDS

PLAN_SECONDS = 30.0


def part(module: ModuleType) -> Part:
    """The kinds of a module, judged."""

    def judged(quick: bool) -> Result:
        title = (module.__doc__ or "").strip()
        kinds = [kind for kind in KINDS.values() if kind.sweep.__module__ == module.__name__]
        verdicts = [judge(replace(k, sizes=k.sizes[:1]) if quick else k) for k in kinds]
        return [table(title, verdicts)], goals(module.__name__.rpartition(".")[2], verdicts)

    return judged


def table(title: str, verdicts: list[Verdict]) -> Table:
    """A row for each kind; what is wrong below."""
    columns = ("kind", "D", "C", "FLOPs", "units", "plan, s", "train, s", "runs", "told", "")
    rows, notes = [], []
    for v in verdicts:
        ratios = [v.D, v.C, v.flops, v.units]
        shown = [f"{ratio:.4f}" if ratio == ratio else "–" for ratio in ratios]
        seconds = f"{v.train_seconds:.1f}" if v.states else "–"
        states = ", ".join(sorted(set(v.states))) or "refused"
        verdict = "WRONG" if v.wrong else "right"
        told = ", ".join(sorted(v.told))
        rows.append((v.kind.name, *shown, f"{v.plan_seconds:.1f}", seconds, states, told, verdict))
        notes += [f"{v.kind.name}: {wrong}" for wrong in v.wrong]
        notes += [f"{v.kind.name}: {v.refusal}"] * bool(v.refusal and not v.wrong)
    ratios_are = (
        "D: units trained to planned. C: FLOPs of the batches of a run to those on record. "
        "FLOPs, units: of a sample, to those by hand."
    )
    return Table(title, columns, tuple(rows), (ratios_are, *notes))


def goals(name: str, verdicts: list[Verdict]) -> list[Goal]:
    """All kinds right, no healthy run called diverged, and plans within seconds."""
    diverged = sum(v.states.count("diverged") for v in verdicts)
    return [
        at_least(f"{name}: kinds right", sum(not v.wrong for v in verdicts), len(verdicts)),
        at_most(f"{name}: healthy runs called diverged", diverged, 0),
        at_most(f"{name}: seconds to plan", max(v.plan_seconds for v in verdicts), PLAN_SECONDS),
    ]


PARTS: dict[str, Part] = {
    "families": part(families),
    "interfaces": part(interfaces),
    "losses": part(losses),
    "data": part(data),
    "layers": part(layers),
    "healthy": healthy,
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    sys.exit(run(PARTS, __doc__, "models", **versions))
