"""What the branches of a trunk hand on to each other: the state where each of them left it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flops_fit.records import Experiment
from flops_fit.train.checkpoint import Checkpoints
from flops_fit.trunks import branch_step

if TYPE_CHECKING:
    from flops_fit.train.step import Stepper
    from flops_fit.train.train_state import TrainState


_MANY = 1_000_000  # which of them go is decided by the runs still to come, not by their number
_HASH = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Trunk:
    """The snapshots of one trunk, as one of its branches uses them.

    Attributes
    ----------
    checkpoints
        Where they lie, in a folder of the trunk's own; ``None`` on a rank that does not write.
    owner
        The id of the run that reads and writes here.
    step
        Where that run leaves the trunk.
    """

    checkpoints: Checkpoints | None
    owner: str
    step: int

    @classmethod
    def of(cls, experiment: Experiment, folder: Path | None) -> Trunk | None:
        """The trunk of an experiment under ``folder``; ``None`` where it has none to share."""
        if not experiment.trunk:
            return None
        there = None if folder is None else _snapshots(folder, experiment.trunk)
        return cls(there, experiment.id, branch_step(experiment))

    def resume(self, tally: TrainState, step: Stepper) -> None:
        """Go on from where a shorter branch left the trunk, if that is further than the run is."""
        tally.resume(self.checkpoints, step, at_most=self.step, owner=self.owner)

    def save(self, tally: TrainState, step: Stepper) -> None:
        """Leave the state to longer branches, where this run leaves the trunk."""
        if tally.step == self.step:
            tally.save(self.checkpoints, step, owner=self.owner)


def left_trunks(folder: Path) -> list[str]:
    """The trunks of which something was left under ``folder``; what is not a trunk's is passed over."""
    if not folder.is_dir():
        return []
    found = (p for p in folder.iterdir() if _HASH.fullmatch(p.name))
    return sorted(p.name for p in found if p.is_dir() and not p.is_symlink())


def prune_trunk(folder: Path, missing: Iterable[Experiment], trunk: str) -> None:
    """Remove the snapshots of a trunk that no missing run would go on from.

    A run goes on from the newest one at or before its branch step, so that one stays for each
    missing run.
    """
    wanted = [branch_step(e) for e in missing if e.trunk == trunk]
    _snapshots(folder, trunk).prune(wanted)


def _snapshots(folder: Path, trunk: str) -> Checkpoints:
    return Checkpoints(folder / trunk, trunk, keep=_MANY)
