"""Is training right, and what does the engine cost? Tables, JSON, and a verdict.

    python -m benchmarks.train                  # everything, about 13 minutes with the other packages
    python -m benchmarks.train --only overhead
    python -m benchmarks.train --quick          # fewer steps, pairs and seeds

Trains on the bundled text and images only, on the CPU. Ends with the goals that were missed or are
left open by the noise, and exits with 1 where one was missed. `make bench-train` also installs the
packages it is compared with.
"""

from __future__ import annotations

import sys

import torch

from benchmarks.common.command import run
from benchmarks.common.report import Part
from benchmarks.train.branches import branches
from benchmarks.train.checkpoints import checkpoints
from benchmarks.train.losses import losses
from benchmarks.train.overhead import overhead
from benchmarks.train.packages import packages
from benchmarks.train.seeds import seeds

PARTS: dict[str, Part] = {
    "losses": losses,
    "overhead": overhead,
    "packages": packages,
    "seeds": seeds,
    "checkpoints": checkpoints,
    "branches": branches,
}


if __name__ == "__main__":
    sys.exit(run(PARTS, __doc__, "train", torch=torch.__version__))
