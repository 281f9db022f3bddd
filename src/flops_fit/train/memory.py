"""How much memory a run needs on each rank, before any of it is taken."""

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from flops_fit.batches import batch_length, map_tensors
from flops_fit.data.spec import DataSpec
from flops_fit.distributed import launched
from flops_fit.flops.trace import storage
from flops_fit.lazy import torch
from flops_fit.model.spec import ModelSpec
from flops_fit.objective import Objective
from flops_fit.plan.findings import in_words
from flops_fit.records import Diagnostic, Experiment
from flops_fit.train.config import TrainingConfig
from flops_fit.train.sharding import blocks

_STATE_BYTES = 16  # of a parameter at most: weight, gradient and AdamW's averages, in float32
_LITTLE, _MUCH = 1e9, 0.5  # bytes, and a share of all memory, from which on it is worth saying
_EXAMPLE_SAMPLES = 4


@dataclass(frozen=True)
class Memory:
    """Bytes on one rank: weights with gradients and optimizer, one layer whole, and activations.

    ``layer`` is 0 where weights are not cut over ranks, ``activations`` NaN where they cannot be traced.
    """

    state: float
    layer: float
    activations: float
    samples: int

    @property
    def total(self) -> float:
        """All that is held at once."""
        known = 0.0 if math.isnan(self.activations) else self.activations
        return self.state + self.layer + known

    def __str__(self) -> str:
        parts = [f"{self.state / 1e9:.3g} of weights, gradients and AdamW"]
        parts += [f"{self.layer / 1e9:.3g} of the largest layer, whole"] if self.layer else []
        parts.append(
            f"{self.activations / 1e9:.3g} of activations of {self.samples} samples at once"
        )
        if math.isnan(self.activations):
            parts[-1] = "and activations, which cannot be traced"
        return f"{self.total / 1e9:.3g} GB: {', '.join(parts)}"


def device_bytes(device: str) -> float:
    """The memory of a CUDA device, or of this machine; infinite for devices that do not say."""
    kind = torch.device(device).type
    if kind == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    if kind == "cpu" and "SC_PHYS_PAGES" in os.sysconf_names:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return float("inf")


def state_bytes(model: Any) -> float:
    """Of the weights, and of gradients and AdamW's two averages where a weight is trained."""
    sizes = ((p.numel() * p.element_size(), p.requires_grad) for p in model.parameters())
    return float(sum(4 * size if trained else size for size, trained in sizes))


def refusal(spec: ModelSpec, experiment: Experiment, device: str, ranks: int, adamw: bool) -> str:
    """Why a run cannot fit on a device, its weights cut over ``ranks``; empty where it may.

    Of an optimizer of the user's only that it has gradients is known.
    """
    room = device_bytes(device)
    if experiment.params.total * _STATE_BYTES / ranks <= room:
        return ""
    needed = state_bytes(spec.build_meta(experiment.size)) / (1 if adamw else 2) / ranks
    if needed <= room:
        return ""
    what = "weights, gradients and AdamW" if adamw else "weights and gradients"
    return (
        f"{what} take {needed / 1e9:.3g} GB on each rank, and {device} has {room / 1e9:.3g} GB: give "
        "sharding='fsdp' and more ranks, or smaller sizes"
    )


def activation_bytes(model: Any, objective: Objective, batch: Any) -> float:
    """What a forward pass keeps for the backward pass, each storage once, weights left out."""
    kept: dict[int, int] = {}
    weights = {storage(p) for p in model.parameters()}

    def keep(tensor: Any) -> Any:
        if (key := storage(tensor)) not in weights:
            kept[key] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        held = objective(model, batch)[0]
    del held
    return float(sum(kept.values()))


def memory_of(
    model: Any, objective: Objective, batch: Any, samples: int, ranks: int, recomputed: bool
) -> Memory:
    """What a model on the meta device will need, of whose layers one is held whole if cut over ``ranks``.

    ``samples`` pass at once. With ``recomputed`` one layer at a time has its activations.
    """
    layers = [sum(p.numel() for p in layer.parameters()) for layer in blocks(model)]
    params = sum(p.numel() for p in model.parameters())
    largest = max([*layers, params - sum(layers)])
    kept = math.nan
    with suppress(Exception):  # the model or its loss may read values
        meta = map_tensors(batch, lambda t: t.to("meta"))
        kept = activation_bytes(model.to("meta"), objective, meta) / batch_length(batch) * samples
    if recomputed and layers:
        kept /= len(layers)
    whole = 2 * 4 * largest if ranks > 1 else 0
    return Memory(state_bytes(model) / ranks, whole, kept, samples)


def memory_findings(
    experiments: Sequence[Experiment],
    spec: ModelSpec,
    data: DataSpec,
    objective: Objective,
    device: str,
    config: TrainingConfig,
) -> list[Diagnostic]:
    """What the largest run takes on each rank, if that is much of what there is."""
    run, ranks = max(experiments, key=lambda e: e.params.total), launched()
    if run.params.total * _STATE_BYTES < _LITTLE and not config.sharding:
        return []
    samples = min(config.microbatch or run.batch_size, math.ceil(run.batch_size / ranks))
    batch, cut = data.first_batch(_EXAMPLE_SAMPLES), ranks if config.sharding else 1
    memory = memory_of(
        spec.build_meta(run.size), objective, batch, samples, cut, config.activation_checkpointing
    )
    room = device_bytes(device)
    if memory.total < _MUCH * room and not config.sharding:
        return []
    short = memory.total > room
    said = {"run": run, "memory": memory, "ranks": ranks, "device": device, "room": room / 1e9}
    return [in_words("memory", "warning" if short else "note", short, **said)]
