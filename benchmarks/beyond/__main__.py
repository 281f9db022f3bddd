"""How well are questions beyond N and D answered, on public runs that were held out?

    python -m benchmarks.beyond --data DIR                    # a folder of public tables
    python -m benchmarks.beyond --data DIR --only metrics     # benchmark scores
    python -m benchmarks.beyond --data DIR --only schedules   # what a run will end at
    python -m benchmarks.beyond --data DIR --only steps       # what a batch costs
    python -m benchmarks.beyond --data DIR --only stopping    # trains runs at rates far off (ten minutes)
    python -m benchmarks.beyond.mixtures                      # trains mixtures of experts (half an hour)
    python -m benchmarks.beyond.scalebench --data DIR         # ScaleBench's tables (half an hour)

Ends with the goals that were missed, and exits with 1 where there are any.
"""

from __future__ import annotations

import sys

from benchmarks.common.threads import one_thread

if __name__ == "__main__":  # read when NumPy is first imported
    one_thread()

from benchmarks.beyond.depth import depth
from benchmarks.beyond.experts import experts
from benchmarks.beyond.forms import forms
from benchmarks.beyond.metrics import metrics
from benchmarks.beyond.repeats import repeats
from benchmarks.beyond.schedules import schedules
from benchmarks.beyond.steps import steps
from benchmarks.beyond.stopping import stopping
from benchmarks.common.command import run, with_folder

PARTS = {
    "metrics": metrics, "repeats": repeats, "schedules": schedules, "experts": experts, "forms": forms,
    "depth": depth, "steps": steps, "stopping": stopping,
}  # fmt: skip


def main() -> int:
    """Run the parts on the folder of tables."""
    options = with_folder()
    folder = options.parse_known_args()[0].data
    if not folder.is_dir():
        sys.exit(f"--data: expected a folder of public tables; {folder} is none.")
    bound = {name: lambda quick, part=part: part(folder, quick) for name, part in PARTS.items()}
    return run(bound, __doc__ or "", "beyond", options=options)


if __name__ == "__main__":
    sys.exit(main())
