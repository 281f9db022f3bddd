"""A model cut over ranks: each holds a part of every weight, and the whole of a block only while it runs.

PyTorch's ``fully_shard`` gathers a block's weights before its forward and backward pass, and scatters its
gradients after it, so ranks cannot go separate ways inside a step: each makes as many passes as all others,
and where one fails its process ends, and with it the launch.
"""

from __future__ import annotations

import functools
import os
import sys
import traceback
from typing import Any

from flops_fit.batches import split_batch
from flops_fit.distributed import Ranks
from flops_fit.errors import InputError
from flops_fit.lazy import nn, torch
from flops_fit.objective import refuse_sparse_gradients
from flops_fit.train.step import Stepper


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
            split_batch(batch, self.microbatch)
            if self.microbatch < self._local_samples
            else [batch]
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
