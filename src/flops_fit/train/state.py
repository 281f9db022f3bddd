"""The state of a run: counted on the device, read rarely, and kept in checkpoints."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from flops_fit import rng
from flops_fit.errors import OutputError
from flops_fit.lazy import torch
from flops_fit.records import Experiment, Run, branch_step
from flops_fit.train.checkpoint import Checkpoints, directories
from flops_fit.train.monitor import DivergenceMonitor, Throughput
from flops_fit.train.step import Stepper

_TAIL = 20  # the training loss on record is a mean over the last 1/20 of the steps
_HEAD = 20  # steps whose mean training loss a run begins from, whatever its length
_OBSERVED = 500  # means of the loss that a run is judged by as it trains, of 5 steps or more
_SUMS = ("units", "recent", "head", "tail", "norm", "tail_norm", "block", "block_norm")
_TRUNK_NAME = re.compile(r"[0-9a-f]{16}")
_KEEP_ALL = 1_000_000  # snapshots of a trunk: `prune_trunk` removes those that no run needs


class TrainState:
    """Steps, units and losses of one run; sums stay on the device, as reading them waits for it."""

    def __init__(self, steps: int, device: str, throughput: Throughput | None = None) -> None:
        self.step, self.first = 0, math.nan
        self._steps, self._tail_steps = steps, max(1, steps // _TAIL)
        self._earlier_seconds, self._resumed = 0.0, 0  # of earlier attempts
        self._shared_steps, self._shared_units = 0, 0
        self._since = 0  # steps since the last reading
        self._notes: list[str] = []
        self._sums: dict[str, torch.Tensor] = {
            name: torch.zeros((), dtype=torch.int64 if name == "units" else None, device=device)
            for name in _SUMS
        }
        self._started = time.perf_counter()
        self.curve: list[tuple[float, float]] = []  # of each block: its middle step, its mean loss
        self.monitor = DivergenceMonitor(steps)
        self.throughput = throughput or Throughput()

    def add(self, loss: torch.Tensor, units: Any, norm: torch.Tensor) -> None:
        """Count one more step."""
        self.step += 1
        self._since += 1
        added = {"units": units, "recent": loss, "norm": norm, "block": loss, "block_norm": norm}
        if self.step <= _HEAD:
            added["head"] = loss
        if self.step > self._steps - self._tail_steps:
            added |= {"tail": loss, "tail_norm": norm}
        for name, value in added.items():
            self._sums[name] += value

    def observe(self) -> str:
        """Let the monitor see whole blocks of steps, on any machine alike; why the run may have diverged."""
        block = max(5, self._steps // _OBSERVED)
        since = self.step - self.monitor.state.step
        if not since or (self.step % block and self.step not in (1, self._steps)):
            return self.monitor.state.reason
        loss, norm = self._sums["block"], self._sums["block_norm"]
        mean = float(loss) / since
        self.curve.append((self.step - since / 2, mean))
        reason = self.monitor.observe(self.step, mean, float(norm) / since)
        loss.zero_()
        norm.zero_()
        return reason

    def read(self, rate: float) -> dict[str, Any]:
        """Means since the last reading."""
        recent, norms = self._sums["recent"], self._sums["norm"]
        loss, norm = float(recent) / self._since, float(norms) / self._since
        if self.step == self._since == 1:
            self.first = loss
        recent.zero_()
        norms.zero_()
        self._since = 0
        units, seconds = self.units, self.seconds
        return {
            "step": self.step,
            "units": units,
            "loss": loss,
            "rate": rate,
            "gradient_norm": norm,
            "seconds": round(seconds, 3),
            **self.throughput.since_last(self.step, units, seconds),
        }

    @property
    def units(self) -> int:
        """Units trained on."""
        return int(self._sums["units"])

    @property
    def seconds(self) -> float:
        """Time in steps, over all attempts."""
        return self._earlier_seconds + time.perf_counter() - self._started

    @property
    def start_loss(self) -> float:
        """Training loss at the start: of the first step, or the mean of the first 20 if lower."""
        return min(self.first, float(self._sums["head"]) / max(1, min(self.step, _HEAD)))

    @property
    def tail_loss(self) -> float:
        """Mean training loss over the last twentieth of the steps."""
        return float(self._sums["tail"]) / self._tail_steps

    def record(self, run: Run, step: Stepper) -> Run:
        """The run with the units that were counted and the FLOPs computed, masked positions included."""
        per_step = run.experiment.flops_per_sample * run.experiment.batch_size
        units, seconds = self.units, self.seconds
        norm = float(self._sums["tail_norm"]) / self._tail_steps
        return replace(
            run,
            tokens=units,
            flops=per_step * self.step,
            flops_shared=per_step * self._shared_steps,
            units_per_second=(units - self._shared_units) / seconds if seconds > 0 else 0.0,
            microbatch=min(step.microbatch, run.experiment.batch_size),
            ranks=step.ranks.size,
            resumed=self._resumed,
            spikes=tuple(self.monitor.spikes),
            notes=tuple(dict.fromkeys([*self._notes, *step.notes])),
            seconds=self._earlier_seconds,
            gradient_norm=norm if self.step == self._steps and math.isfinite(norm) else None,
            mfu=self.throughput.mfu(self.step - self._shared_steps, seconds),
        )

    def save(self, checkpoints: Checkpoints | None, step: Stepper, owner: str = "") -> None:
        """Save the whole state; every rank calls this, those with ``checkpoints`` write.

        A full disk costs only the checkpoint.
        """
        random = step.ranks.all_gather(rng.capture())
        if checkpoints is None:
            return
        state = {
            "owner": owner,
            **step.state(),
            "random": random,
            "tally": {
                "first": self.first,
                "seconds": self.seconds,
                "resumed": self._resumed,
                "since": self._since,
                "shared_steps": self._shared_steps,
                "shared_units": self._shared_units,
                **self._sums,
                "microbatch": step.microbatch,
                "watch": self.monitor.save(),
                "curve": self.curve,
                "notes": list(dict.fromkeys([*self._notes, *step.notes])),
            },
        }
        try:
            checkpoints.save(self.step, state)
        except OutputError as error:
            text = f"a checkpoint could not be written: {error}"
            if text not in self._notes:
                self._notes.append(text)

    def resume(
        self,
        checkpoints: Checkpoints | None,
        step: Stepper,
        at_most: int | None = None,
        owner: str = "",
    ) -> None:
        """Continue exactly from the newest checkpoint ahead, if any; what another ``owner`` did is shared."""
        newest = None
        if checkpoints is not None:
            newest = checkpoints.newest(at_most, after=self.step)
        while step.sharded and (kept := step.ranks.all_gather(newest[0] if newest else -1)):
            if len(set(kept)) == 1:
                break
            # One was stopped before it had saved: all take the newest step that it has.
            if newest and checkpoints and newest[0] > min(kept):
                newest = checkpoints.newest(min(kept), after=self.step)
        if checkpoints is not None:
            self._notes += [d.message for d in checkpoints.findings]
        step.ranks.all_reduce_max()
        newest = newest if step.sharded else step.ranks.broadcast(newest)
        if newest is None:
            return
        self.step, state = newest
        saved = state["tally"]
        step.load(state)
        random: list[rng.RngState] = state["random"]
        if len(random) != step.ranks.size:
            self._notes.append(
                f"continued at step {self.step} by {step.ranks.size} ranks after {len(random)}: what "
                "the model itself draws at random is drawn anew"
            )
        if step.ranks.rank < len(random):
            rng.restore(random[step.ranks.rank])
        self.first, self._since = saved["first"], saved["since"]
        self._earlier_seconds, self._resumed = saved["seconds"], saved["resumed"] + 1
        self._shared_steps = saved.get("shared_steps", 0)
        self._shared_units = saved.get("shared_units", 0)
        for name, total in self._sums.items():
            if name in saved:
                total.copy_(saved[name])
        step.microbatch = saved["microbatch"]
        self.monitor.load(saved["watch"])
        self.curve = [(step, loss) for step, loss in saved.get("curve", ())]
        self._notes += [note for note in saved["notes"] if note not in self._notes]
        if state.get("owner", "") != owner:
            self._earlier_seconds, self._resumed = 0.0, 0
            self._shared_steps, self._shared_units = self.step, self.units
        self.throughput.since_last(self.step, self.units, self.seconds)


def trunk_snapshots(folder: Path, trunk: str) -> Checkpoints:
    """The state of a trunk at each step where a run branches off, for longer runs to continue."""
    return Checkpoints(folder / trunk, trunk, keep=_KEEP_ALL)


def left_trunks(folder: Path) -> list[str]:
    """The trunks that left snapshots under ``folder``; other files are ignored."""
    return [p.name for p in directories(folder) if _TRUNK_NAME.fullmatch(p.name)]


def prune_trunk(folder: Path, missing: Iterable[Experiment], trunk: str) -> None:
    """Remove the snapshots of a trunk, except the newest that each missing run would continue from."""
    steps = [branch_step(e) for e in missing if e.trunk == trunk]
    trunk_snapshots(folder, trunk).prune(steps)
