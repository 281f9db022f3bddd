"""Do plans cost what they say, and does the adaptive design answer with fewer FLOPs?

    python -m benchmarks.plan                  # everything, about 6 minutes
    python -m benchmarks.plan --only counting
    python -m benchmarks.plan --quick          # fewer repetitions

Ends with the goals that were missed and by how much, and exits with 1 where there are any.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if __name__ == "__main__":  # read when NumPy is first imported
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    os.environ["MKL_NUM_THREADS"] = "1"

from benchmarks.command import run
from benchmarks.cost import cost
from benchmarks.counting import counting
from benchmarks.designs import designs
from benchmarks.replay import replay
from benchmarks.report import Part

PARTS: dict[str, Part] = {
    "counting": counting,
    "cost": cost,
    "design": designs,
    "replay": replay,
}


def main() -> int:
    """Run the parts, print and write what they found; 1 where a goal is missed."""
    return run(PARTS, __doc__.split("\n")[0], Path("outputs/bench/plan.json"))


if __name__ == "__main__":
    sys.exit(main())
