"""How much memory a run needs on each rank, and a model that is cut over ranks to need less.

PyTorch's ``fully_shard`` gathers a block's weights before its forward and backward pass, and scatters its
gradients after it, so ranks cannot go separate ways inside a step: each makes as many passes as all others,
and where one fails its process ends, and with it the launch.
"""

from __future__ import annotations

import functools
import math
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from flops_fit.batches import batch_length, map_tensors
from flops_fit.data.spec import DataSpec
from flops_fit.distributed import Ranks, launched
from flops_fit.errors import InputError
from flops_fit.flops.trace import storage
from flops_fit.lazy import nn, torch
from flops_fit.model.spec import ModelSpec
from flops_fit.objective import Objective, refuse_sparse_gradients
from flops_fit.plan.findings import in_words
from flops_fit.records import Diagnostic, Experiment
from flops_fit.train.config import TrainingConfig
from flops_fit.train.step import Stepper

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
    model: Any,
    objective: Objective,
    batch: Any,
    samples: int,
    ranks: int,
    recomputed: bool,
    length: int = 0,
) -> Memory:
    """What a model on the meta device will need, of whose layers one is held whole if cut over ``ranks``.

    ``samples`` pass at once; ``length`` are those of the batch, if not along its first dimension. With
    ``recomputed`` one layer at a time has its activations.
    """
    layers = [sum(p.numel() for p in layer.parameters()) for layer in blocks(model)]
    params = sum(p.numel() for p in model.parameters())
    largest = max([*layers, params - sum(layers)])
    kept = math.nan
    with suppress(Exception):  # the model or its loss may read values
        meta = map_tensors(batch, lambda t: t.to("meta"))
        own = length or batch_length(batch)
        kept = activation_bytes(model.to("meta"), objective, meta) / own * samples
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
    traced = spec.build_meta(run.size), objective, batch, samples, cut
    memory = memory_of(*traced, config.activation_checkpointing, data.length(batch))
    room = device_bytes(device)
    if memory.total < _MUCH * room and not config.sharding:
        return []
    short = memory.total > room
    said = {"run": run, "memory": memory, "ranks": ranks, "device": device, "room": room / 1e9}
    return [in_words("memory", "warning" if short else "note", short, **said)]


def blocks(model: nn.Module) -> list[nn.Module]:
    """The outermost layers of all lists of layers, but those that share weights with others."""
    found: list[nn.Module] = []
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList | nn.Sequential)]
    inner = {id(m) for part in lists for layer in part for m in list(layer.modules())}
    for layer in (layer for part in lists if id(part) not in inner for layer in part):
        own = {id(p) for p in layer.parameters()}
        inside = {id(m) for m in layer.modules()}
        others = (m for m in model.modules() if id(m) not in inside)
        shared = any(id(p) in own for m in others for p in m.parameters(recurse=False))
        if own and not shared and layer not in found:
            found.append(layer)
    return found


def recompute(model: nn.Module) -> None:
    """Let each block forget its activations and compute them again in the backward pass."""
    from torch.utils.checkpoint import checkpoint

    for block in blocks(model) or [model]:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)


def shard(model: nn.Module, device: str, ranks: Ranks) -> nn.Module:
    """Cut the model's weights over the ranks, block by block, so that none has all of it on its device."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    total = sum(float(p.detach().double().sum()) for p in model.parameters())
    if len(set(ranks.all_gather(total))) > 1:
        raise InputError(
            "model_cls: expected the same weights from every rank's constructor, which draws them by the "
            "run's seed; they differ. Draw them by torch's own generators."
        )
    mesh = init_device_mesh(torch.device(device).type, (ranks.size,))
    for block in [*blocks(model), model]:
        block.register_forward_hook(_own_memory)
        whole = fully_shard(block, mesh=mesh)
    if hasattr(whole, "set_reduce_scatter_unused_params"):  # samples may take different ways
        whole.set_reduce_scatter_unused_params(True)
    return model


def _own_memory(module: Any, inputs: Any, output: Any) -> Any:
    """Outputs that are no views: changed in place, a view would lose the hook that gathers the weights."""
    from torch.utils._pytree import tree_map_only

    return tree_map_only(torch.Tensor, lambda t: t.clone() if t._is_view() else t, output)


def _local(value: Any) -> Any:
    """What this rank holds of each tensor in nested containers."""
    if isinstance(value, dict):
        return {k: _local(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_local, value))
    return value.to_local() if hasattr(value, "to_local") else value


def _part_of(saved: Any, whole: Any) -> Any:
    """A saved part as a part of a sharded tensor of the same shape; other values as they are."""
    own = whole.to_local()
    if not isinstance(saved, torch.Tensor) or not saved.dim() or saved.shape != own.shape:
        return saved
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        saved.to(own.device),
        whole.device_mesh,
        whole.placements,
        shape=whole.shape,
        stride=whole.stride(),
    )


class ShardedStepper(Stepper):
    """A step of a model that :func:`shard` has cut."""

    sharded = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < self.ranks.size:
            raise InputError(
                f"sharding: expected a batch of at least one sample for each of {self.ranks.size} ranks; got "
                f"{self.samples}. Give a larger batch_size, or fewer ranks."
            )

    def compile(self) -> None:
        """Sharded blocks are not compiled."""
        self.notes.append("not compiled: the model is sharded")

    def __call__(self, batch: Any) -> tuple[torch.Tensor, Any, torch.Tensor]:
        """Step once; the mean loss, the number of units and the gradient's norm, on the device."""
        summed, units = self._gradient(batch)
        counted = torch.as_tensor(units, dtype=torch.int64, device=self.device)
        self.ranks.all_reduce_sum([counted, summed])
        per_unit = self._pieces / counted.clamp(min=1)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        torch._foreach_mul_(
            _local(gradients), per_unit * self.ranks.size
        )  # they are means over ranks
        refuse_sparse_gradients(self.model)
        norm: Any = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return summed * per_unit, counted, norm.full_tensor()

    def _gradient(self, batch: Any) -> tuple[torch.Tensor, Any]:
        """A share of the gradient's sum, in as many passes as on every rank."""
        parts = (
            self.cut(batch, self.microbatch) if self.microbatch < self._local_samples else [batch]
        )
        parts = [part for part in parts if self.objective.has_units(part)]
        if not parts:
            raise RuntimeError(
                "sharding: expected units to train on in each rank's share of a batch; one has none. Give a "
                "larger batch_size, or fewer ranks."
            )
        passes = self._pieces // self.ranks.size
        summed, units = torch.zeros((), device=self.device), 0
        for i in range(passes):
            total, count = self._pass(parts[min(i, len(parts) - 1)])
            counts = i < len(parts)
            share = total * (counts / self._pieces)
            share.backward()  # type: ignore[no-untyped-call]  # it has no types
            if counts:
                summed += total.detach() / self._pieces
                units = units + count
        return summed, units

    def state(self) -> dict[str, Any]:
        """What this rank holds of the weights and of the optimizer's state."""
        return dict(_local(super().state()))

    def load(self, state: dict[str, Any]) -> None:
        """Put this rank's part back."""
        with torch.no_grad():
            for name, own in self.model.state_dict().items():
                _local(own).copy_(state["model"][name])
        params = [p for group in self.optimizer.param_groups for p in group["params"]]
        saved = {
            i: {k: _part_of(v, params[i]) for k, v in values.items()}
            for i, values in state["optimizer"]["state"].items()
        }
        self.optimizer.load_state_dict({**state["optimizer"], "state": saved})


def end_launch(error: Exception) -> None:
    """End this process, as the others wait for it inside a pass; the launcher ends them."""
    traceback.print_exception(error)
    sys.stderr.flush()
    sys.stdout.flush()
    os._exit(1)
