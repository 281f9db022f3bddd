"""What a run has done so far: counted on the device, read seldom, and kept in checkpoints."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flops_fit import rng
from flops_fit.distributed import Ranks
from flops_fit.errors import OutputError
from flops_fit.records import Run
from flops_fit.train.checkpoint import Checkpoints
from flops_fit.train.monitor import DivergenceMonitor
from flops_fit.train.step import Stepper
from flops_fit.train.throughput import Throughput

if TYPE_CHECKING:
    from torch import Tensor


_TAIL = 20  # the training loss on record is a mean over the last twentieth of the steps


class TrainState:
    """Steps, units and losses of one run.

    Sums stay on the device: adding to them waits for nothing, reading them does.

    Attributes
    ----------
    step
        Steps done.
    first
        The training loss of the first step.
    watch
        Says when the run has diverged, and keeps its spikes.
    pace
        Says how fast it goes.
    """

    def __init__(self, steps: int, device: str, pace: Throughput | None = None) -> None:
        import torch

        self.step, self.first = 0, math.nan
        self._steps, self._in_tail = steps, max(1, steps // _TAIL)
        self._seconds, self._resumed = 0.0, 0
        self._shared_steps, self._shared_units = 0, 0
        self._since = 0
        self._notes: list[str] = []
        self._units = torch.zeros((), dtype=torch.int64, device=device)
        self._recent, self._tail, self._norm, self._tail_norm = (
            torch.zeros((), device=device) for _ in range(4)
        )
        self._started = time.perf_counter()
        self.watch = DivergenceMonitor(steps)
        self.pace = pace or Throughput()

    def add(self, loss: Tensor, units: Any, norm: Tensor) -> None:
        """One more step."""
        self.step += 1
        self._since += 1
        self._units += units
        self._recent += loss
        self._norm += norm
        if self.step > self._steps - self._in_tail:
            self._tail += loss
            self._tail_norm += norm

    def read(self, rate: float) -> dict[str, Any]:
        """Means since the last reading."""
        loss, norm = float(self._recent) / self._since, float(self._norm) / self._since
        if self.step == self._since == 1:
            self.first = loss
        self.watch.observe(self.step, loss, norm)
        self._recent.zero_()
        self._norm.zero_()
        self._since = 0
        units, seconds = int(self._units), self.seconds
        return {
            "step": self.step,
            "units": units,
            "loss": loss,
            "rate": rate,
            "gradient_norm": norm,
            "seconds": round(seconds, 3),
            **self.pace.since(self.step, units, seconds),
        }

    @property
    def seconds(self) -> float:
        """Time in steps, over all attempts."""
        return self._seconds + time.perf_counter() - self._started

    @property
    def tail_loss(self) -> float:
        """Mean training loss over the last twentieth of the steps."""
        return float(self._tail) / self._in_tail

    @property
    def tail_norm(self) -> float | None:
        """Mean gradient norm over the same steps; ``None`` before the last, or where not finite."""
        norm = float(self._tail_norm) / self._in_tail
        return norm if self.step == self._steps and math.isfinite(norm) else None

    def spent(self, run: Run, step: Stepper) -> Run:
        """Units that were counted and FLOPs that were computed, masked positions included."""
        experiment = run.experiment
        units, seconds = int(self._units), self.seconds
        return replace(
            run,
            tokens=units,
            flops=experiment.flops_per_sample * experiment.batch_size * self.step,
            flops_shared=experiment.flops_per_sample * experiment.batch_size * self._shared_steps,
            units_per_second=(units - self._shared_units) / seconds if seconds > 0 else 0.0,
            microbatch=min(step.microbatch, experiment.batch_size),
            ranks=step.ranks.size,
            resumed=self._resumed,
            spikes=tuple(self.watch.spikes),
            notes=tuple(dict.fromkeys([*self._notes, *step.notes])),
            seconds=self._seconds,
            gradient_norm=self.tail_norm,
            mfu=self.pace.mfu(self.step - self._shared_steps, seconds),
        )

    def save(self, checkpoints: Checkpoints | None, step: Stepper, owner: str = "") -> None:
        """Keep all that the rest of the run depends on; a full disk costs the checkpoint alone.

        Every rank comes here; the one that has the folder writes. ``owner`` is the run that leaves a
        state which others may go on from.
        """
        random = step.ranks.all_gather(rng.capture())
        if checkpoints is None:
            return
        state = {
            "owner": owner,
            "model": step.model.state_dict(),
            "optimizer": step.optimizer.state_dict(),
            "random": random,
            "tally": {
                "first": self.first,
                "seconds": self.seconds,
                "resumed": self._resumed,
                "since": self._since,
                "shared_steps": self._shared_steps,
                "shared_units": self._shared_units,
                "units": self._units,
                "recent": self._recent,
                "tail": self._tail,
                "norm": self._norm,
                "tail_norm": self._tail_norm,
                "microbatch": step.microbatch,
                "watch": self.watch.save(),
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
        """Go on from the newest checkpoint of at most so many steps, exactly.

        Nothing happens where there is none that is further than the run. The rank that has the folder
        reads, and the others hear of it from rank 0. What an ``owner`` that is not this one had done
        counts as shared, and its time is on that run's record.
        """
        found = None
        if checkpoints is not None:
            found = checkpoints.newest(at_most, after=self.step)
            self._notes += [d.message for d in checkpoints.findings]
        step.ranks.all_reduce_max()
        found = step.ranks.broadcast(found)
        if found is None:
            return
        self.step, state = found
        kept = state["tally"]
        step.model.load_state_dict(state["model"])
        step.optimizer.load_state_dict(state["optimizer"])
        self._restore_random(state["random"], step.ranks)
        self.first, self._since = kept["first"], kept["since"]
        self._seconds, self._resumed = kept["seconds"], kept["resumed"] + 1
        self._shared_steps = kept.get("shared_steps", 0)
        self._shared_units = kept.get("shared_units", 0)
        for mine, name in (
            (self._units, "units"),
            (self._recent, "recent"),
            (self._tail, "tail"),
            (self._norm, "norm"),
            (self._tail_norm, "tail_norm"),
        ):
            mine.copy_(kept[name])
        step.microbatch = kept["microbatch"]
        self.watch.load(kept["watch"])
        self._notes += [note for note in kept["notes"] if note not in self._notes]
        if state.get("owner", "") != owner:
            self._seconds, self._resumed = 0.0, 0
            self._shared_steps, self._shared_units = self.step, int(self._units)
        self.pace.begin(self.step, int(self._units), self.seconds)

    def _restore_random(self, states: list[dict[str, Any]], ranks: Ranks) -> None:
        """Each rank's generators, where as many ranks go on as there were."""
        if len(states) != ranks.size:
            self._notes.append(
                f"went on at step {self.step} by {ranks.size} ranks after {len(states)}: what the model "
                "itself draws at random is drawn anew"
            )
        if ranks.rank < len(states):
            rng.restore(states[ranks.rank])
