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

from benchmarks.branches import branches
from benchmarks.checkpoints import checkpoints
from benchmarks.command import run
from benchmarks.losses import losses
from benchmarks.overhead import overhead
from benchmarks.report import Part
from benchmarks.seeds import seeds
from benchmarks.train_packages import packages

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
