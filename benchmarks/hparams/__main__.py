"""What do hyper-parameters do to the answer, and how far does one learning rate carry?

    python -m benchmarks.hparams                  # everything, about 45 minutes on two cores
    python -m benchmarks.hparams --only gpt       # transfer across widths, the GPT on text
    python -m benchmarks.hparams --only muon      # does a rate for AdamW serve Muon? 5 minutes
    python -m benchmarks.hparams --quick          # small runs: that it works, not what it says

Runs are kept in outputs/bench/hparams, and a call that was interrupted goes on there. Exits with 1
where a goal is missed.
"""

from __future__ import annotations

import sys

import torch

from benchmarks.common.command import run
from benchmarks.common.report import Part
from benchmarks.hparams.optimizers import optimizers
from benchmarks.hparams.transfer import gpt_task, part, vit_task
from benchmarks.hparams.tuned_sweeps import sweeps

PARTS: dict[str, Part] = {
    "gpt": part(gpt_task),
    "vit": part(vit_task),
    "sweeps": sweeps,
    "muon": optimizers,
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(run(PARTS, __doc__, "hparams", torch=torch.__version__))
