"""One Experiment in, one Run out."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from flops_fit._version import __version__
from flops_fit.data import DataSpec
from flops_fit.model import ModelSpec
from flops_fit.objective import Objective, batch_length, check_loss, map_tensors
from flops_fit.recipes import learning_rate
from flops_fit.records import Experiment, Run
from flops_fit.train._evaluate import evaluate

__all__ = ["Progress", "Trainer"]

_REPORT_SECONDS = 0.5
_TAIL = 20  # the training loss on record is a mean over the last twentieth of the steps


@dataclass(frozen=True)
class Progress:
    """Where a run is: steps done, smoothed training loss."""

    experiment_id: str
    step: int
    steps: int
    loss: float


Report = Callable[[Progress], None]


@dataclass(frozen=True)
class Trainer:
    """All that an experiment needs to be carried out; call it with one.

    Attributes
    ----------
    model, data, held_out, objective
        What is trained, on what, judged by what.
    device
        A torch device, ``"cpu"`` or ``"cuda"``.
    """

    model: ModelSpec
    data: DataSpec
    held_out: DataSpec
    objective: Objective
    device: str = "cpu"

    def __call__(self, experiment: Experiment, report: Report | None = None) -> Run:
        """Train one experiment to its end and evaluate it.

        What goes wrong becomes the state of the run: ``diverged``, ``oom`` or ``failed``, with
        the reason. Only an interruption from outside passes through.
        """
        import torch

        started = time.perf_counter()
        devices = [torch.cuda.current_device()] if self.device.startswith("cuda") else []
        run = Run(experiment, "failed", device=self.device, versions=versions())
        try:
            with torch.random.fork_rng(devices=devices):
                run = self._train(run, report or (lambda progress: None))
        except (torch.OutOfMemoryError, MemoryError) as error:
            run = replace(run, state="oom", reason=_first_line(error))
        except Exception as error:  # the user's code may raise anything
            where = traceback.format_exception(error)[-3:]
            run = replace(run, state="failed", reason=_first_line(error), details="".join(where))
        return replace(run, seconds=time.perf_counter() - started)

    def _train(self, run: Run, report: Report) -> Run:
        """The loop, straight down."""
        import torch

        experiment = run.experiment
        hparams = experiment.hparams

        # 1. The model, initialised from the run's own seed.
        torch.manual_seed(experiment.seed)
        model: Any = self.model.build(experiment.size).to(self.device)
        model.train()
        optimizer = make_optimizer(model, hparams)

        # 2. Whole steps over exactly the planned units, each step a mean over its batch's units.
        units = torch.zeros((), dtype=torch.int64, device=self.device)
        recent, tail = (torch.zeros((), device=self.device) for _ in range(2))
        in_tail = max(1, experiment.steps // _TAIL)
        first, samples, in_recent, reported = math.nan, 0, 0, time.perf_counter()
        batches = self.data.batches(experiment.batch_size, experiment.steps, experiment.seed)
        for step, batch in enumerate(batches, start=1):
            batch = map_tensors(batch, lambda t: t.to(self.device, non_blocking=True))
            rate = learning_rate(hparams, (step - 0.5) / experiment.steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            total, count = self.objective(model, batch)
            loss = check_loss(total) / count
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), float(hparams["clip"]))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            units += count
            samples += batch_length(batch)
            recent += loss.detach()
            in_recent += 1
            if step > experiment.steps - in_tail:
                tail += loss.detach()

            # 3. The loss is read twice a second at most: reading it waits for the device.
            now = time.perf_counter()
            if step in (1, experiment.steps) or now - reported > _REPORT_SECONDS:
                seen = float(recent) / in_recent
                first = seen if step == 1 else first
                recent.zero_()
                in_recent, reported = 0, now
                report(Progress(experiment.id, step, experiment.steps, seen))
                if not math.isfinite(seen):
                    run = self._spent(run, int(units), samples)
                    return replace(
                        run, state="diverged", reason=f"training loss {seen:g} by step {step}"
                    )

        # 4. What was really spent, and the held-out loss at the end of the schedule.
        run = self._spent(run, int(units), samples)
        loss_value, standard_error = evaluate(
            model, self.held_out, self.objective, self.device, max(experiment.batch_size, 64)
        )
        last = float(tail) / in_tail
        run = replace(run, loss=loss_value, loss_se=standard_error, train_loss=last)
        if not math.isfinite(loss_value):
            return replace(run, state="diverged", loss=None, reason=f"held-out loss {loss_value:g}")
        if last > first:
            return replace(
                run,
                state="diverged",
                reason=f"training loss rose from {first:.4g} to {last:.4g}",
            )
        return replace(run, state="completed")

    def _spent(self, run: Run, units: int, samples: int) -> Run:
        """Units that were counted and FLOPs that were computed, masked positions included."""
        experiment = run.experiment
        per_sample = experiment.flops_per_unit * experiment.units_per_sample
        return replace(run, tokens=units, flops=per_sample * samples)


def make_optimizer(model: Any, hparams: Any) -> Any:
    """AdamW with decoupled weight decay on matrices: not on norms, biases and embeddings."""
    import torch

    tables = {
        id(p)
        for m in model.modules()
        if isinstance(m, torch.nn.Embedding | torch.nn.EmbeddingBag)
        for p in m.parameters(recurse=False)
    }
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.dim() >= 2 and id(p) not in tables]
    rest = [p for p in trained if p.dim() < 2 or id(p) in tables]
    groups = [
        {"params": decayed, "weight_decay": float(hparams["weight_decay"])},
        {"params": rest, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]],
        lr=float(hparams["lr"]),
        betas=(float(hparams["beta1"]), float(hparams["beta2"])),
        fused=all(p.is_floating_point() for p in trained),
    )


def versions() -> dict[str, str]:
    """The versions that a run's numbers depend on."""
    import torch

    return {"flops_fit": __version__, "torch": torch.__version__}


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
