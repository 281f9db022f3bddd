"""A few real steps before the sweep: is the model trainable, and how fast is it here?"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from flops_fit.data import DataSpec
from flops_fit.errors import LossError, ModelError
from flops_fit.model import ModelSpec
from flops_fit.objective import Objective, batch_length, check_loss, map_tensors
from flops_fit.records import Experiment

_STEP_FLOPS = 2e10  # a probed step costs no more than this: a second or so on two cores
_ALLOCATED = 5e7  # the largest model that is built only to be probed


@dataclass(frozen=True)
class Speed:
    """Measured training speed, FLOP/s against N, on one device.

    ``held_out_units`` are evaluated at the end of every run, at a forward pass each: a third of
    the training FLOPs.
    """

    params: tuple[float, ...]
    flops_per_second: tuple[float, ...]
    device: str
    held_out_units: float = 0.0

    def seconds(self, experiment: Experiment, flops: float | None = None) -> float:
        """Estimated time of one run, alone on the device: training and its final evaluation.

        ``flops`` are those that it computes itself, where a part is shared.
        """
        speed = np.interp(
            math.log(experiment.params.total), np.log(self.params), np.log(self.flops_per_second)
        )
        evaluation = experiment.flops_per_unit / 3 * self.held_out_units
        return ((experiment.flops if flops is None else flops) + evaluation) / math.exp(
            float(speed)
        )


def probe(
    spec: ModelSpec,
    data: DataSpec,
    objective: Objective,
    experiments: tuple[Experiment, ...],
    device: str,
    held_out_samples: int = 0,
) -> Speed:
    """Train a few steps at up to three of the planned sizes.

    The smallest size is always built: what cannot train is found out here, before any compute is
    spent. Larger sizes are built up to 5e7 parameters.

    Raises
    ------
    LossError
        The loss is no scalar, has no gradient, is not finite, or is a sum over the batch.
    ModelError
        The model's constructor or its forward pass raises.
    """
    import torch

    by_size = sorted({repr(e.size): e for e in experiments}.values(), key=lambda e: e.params.total)
    chosen = [by_size[i] for i in sorted({0, len(by_size) // 2, len(by_size) - 1})]
    chosen = [chosen[0], *(e for e in chosen[1:] if e.params.total <= _ALLOCATED)]
    speeds: dict[float, float] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for experiment in chosen:
            seconds, flops = _time_steps(spec, data, objective, experiment, device)
            speeds[float(experiment.params.total)] = flops / seconds
    sizes = tuple(sorted(speeds))
    held_out = held_out_samples * experiments[0].units_per_sample
    return Speed(sizes, tuple(speeds[n] for n in sizes), device, held_out)


def _time_steps(
    spec: ModelSpec, data: DataSpec, objective: Objective, experiment: Experiment, device: str
) -> tuple[float, float]:
    """Seconds and FLOPs of one step, the fastest of three after a first that is checked."""
    import torch

    per_sample = experiment.flops_per_unit * experiment.units_per_sample
    size = max(1, min(experiment.batch_size, int(_STEP_FLOPS / per_sample) or 1))
    batch = map_tensors(data.first_batch(max(size, 2)), lambda t: t.to(device))
    try:
        model: Any = spec.build(experiment.size).to(device)
    except Exception as error:
        raise ModelError(
            f"model_cls: {spec.reference}({spec.arguments(experiment.size)}) raised "
            f"{type(error).__name__}: {error}."
        ) from error
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    fastest = math.inf
    for attempt in range(4):
        start = time.perf_counter()
        try:
            total, count = objective(model, batch)
        except (LossError, ModelError):
            raise
        except Exception as error:
            raise ModelError(
                f"model_cls: a forward pass of {spec.reference} at {spec.arguments(experiment.size)} "
                f"with its loss raised {type(error).__name__}: {error}. It was called with the "
                "data set's first batch."
            ) from error
        if attempt == 0:
            _check(model, batch, objective, total)
        (total / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        if attempt:
            fastest = min(fastest, time.perf_counter() - start)
    return fastest, per_sample * batch_length(batch)


def _check(model: Any, batch: Any, objective: Objective, total: Any) -> None:
    """Refuse a loss that cannot be trained on."""
    import torch

    check_loss(total)
    if not bool(torch.isfinite(total)):
        raise LossError(
            f"loss_fn: the untrained model's loss on the first batch is {total.item():g}; expected "
            "a finite number. Look for NaN in the data, or in the model's output."
        )
    if objective.loss_fn is None or objective.step_fn is not None or batch_length(batch) < 2:
        return
    _check_mean(model, batch, objective)


def _sample(batch: Any, i: int) -> Any:
    return map_tensors(batch, lambda t: t[i : i + 1])


def _check_mean(model: Any, batch: Any, objective: Objective) -> None:
    """Refuse a loss that adds up over the batch: it must be a mean over counted units."""
    import torch

    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            n = batch_length(batch)
            whole = float(objective.mean(model, batch))
            losses = [float(objective.mean(model, _sample(batch, i))) for i in range(n)]
    except Exception:  # some models refuse a single sample; then nothing is known
        return
    finally:
        model.train(was_training)
    added = math.fsum(losses)
    if abs(added) > 1e-12 and abs(whole / added - 1) < 1e-3 and n > 1:
        raise LossError(
            f"loss_fn: expected the mean over the batch's units; over {n} samples it returned the "
            'sum of their losses. Use reduction="mean".'
        )
