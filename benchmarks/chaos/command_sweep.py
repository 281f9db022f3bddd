"""The cheap sweeps as commands, which start in sessions of their own, and the process that drives one.

python -m benchmarks.chaos.command_sweep EXECUTOR FOLDER RUNS SECONDS
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

from benchmarks.chaos.cheap_sweeps import EXECUTORS, LAW, carry_out, experiments, said_of
from benchmarks.chaos.processes import Process
from flops_fit.execute import CommandTask

COMMAND = (
    'echo begun {{run_id}} >> {said}; sleep {seconds}; awk \'BEGIN {{{{ printf "loss: %.12f\\n", '
    "{law.E} + {law.A} / {{params}}^{law.alpha} + {law.B} / {{tokens}}^{law.beta} }}}}'"
)


def commands() -> list[Process]:
    """Those that are under way on this machine, by the variables that they were given."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if b"\0FLOPS_FIT_RUN_DIR=" in (path / "environ").read_bytes():
                found.append(Process(int(path.name), "command"))
    return found


def main(executor: str, folder: str, runs: str, seconds: str) -> int:
    """Drive a sweep."""
    out = Path(folder)
    text = COMMAND.format(said=said_of(out), seconds=seconds, law=LAW)
    task = CommandTask(text, "re:loss: (.*)", shell=True, folder=out / "runs", grace=1.0)
    return carry_out(experiments(int(runs)), task, EXECUTORS[executor](), out, said_of(out))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
