"""Do plans cost what they say, and does the adaptive design answer with fewer FLOPs?

    python -m benchmarks.plan                  # everything, about 25 minutes on two cores
    python -m benchmarks.plan --only counting
    python -m benchmarks.plan --quick          # fewer repetitions

Ends with the goals that were missed and by how much, and exits with 1 where there are any.
"""

from __future__ import annotations

import sys

from benchmarks.common.threads import one_thread

if __name__ == "__main__":  # read when NumPy is first imported
    one_thread()

from benchmarks.common.command import run
from benchmarks.common.report import Part
from benchmarks.plan.cost import cost
from benchmarks.plan.counting import counting
from benchmarks.plan.designs import designs
from benchmarks.plan.real_design import real_design
from benchmarks.plan.replay import replay

PARTS: dict[str, Part] = {
    "counting": counting,
    "cost": cost,
    "design": designs,
    "replay": replay,
    "real": real_design,
}


if __name__ == "__main__":
    sys.exit(run(PARTS, __doc__, "plan"))
