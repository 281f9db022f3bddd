"""What the branches of a trunk hand on to each other: the state where each of them left it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flops_fit.records import Experiment
from flops_fit.train._checkpoint import Checkpoints
from flops_fit.trunks import branch_step

if TYPE_CHECKING:
    from flops_fit.train._step import Stepper
    from flops_fit.train._tally import Tally

__all__ = ["Trunk", "prune_trunks"]

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

    def resume(self, tally: Tally, step: Stepper) -> None:
        """Go on from where a shorter branch left the trunk, if that is further than the run is."""
        tally.resume(self.checkpoints, step, at_most=self.step, owner=self.owner)

    def save(self, tally: Tally, step: Stepper) -> None:
        """Leave the state to longer branches, where this run leaves the trunk."""
        if tally.step == self.step:
            tally.save(self.checkpoints, step, owner=self.owner)


def prune_trunks(folder: Path, missing: Iterable[Experiment], trunk: str = "") -> None:
    """Remove the snapshots that no missing run would go on from.

    A run goes on from the newest one at or before its branch step, so of each trunk that one stays
    for each missing run. What is not a trunk's is left alone, and so are all trunks but one where it
    is named.
    """
    wanted: dict[str, list[int]] = {}
    for experiment in missing:
        if experiment.trunk:
            wanted.setdefault(experiment.trunk, []).append(branch_step(experiment))
    if trunk:
        _snapshots(folder, trunk).prune(wanted.get(trunk, ()))
        return
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if _HASH.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            _snapshots(folder, path.name).prune(wanted.get(path.name, ()))
    with suppress(OSError):  # where something is left in it
        folder.rmdir()


def _snapshots(folder: Path, trunk: str) -> Checkpoints:
    return Checkpoints(folder / trunk, trunk, keep=_MANY)
