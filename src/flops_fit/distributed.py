"""The processes ("ranks") that train one run together, each on its share of every batch.

Tensors are exchanged between devices, decisions between hosts. Every rank takes part in every
exchange, so each decision also carries whether a rank has failed in the user's code.
"""

from __future__ import annotations

import atexit
import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from flops_fit.errors import InputError
from flops_fit.lazy import import_extra, torch

_TIMEOUT = timedelta(hours=2)  # a rank may read, compile or save alone for as long
_MAX_FLAGS = 3  # in one decision
_BUCKET_BYTES = 1 << 26  # summed at once: long enough for the wire, short enough to copy
_SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")  # torchrun; MPI
_SHARDED = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism configuration",
}
_GROUPS: dict[str, Any] = {}


class PeerError(Exception):
    """Another rank failed; it knows why."""


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those that train a run together; rank 0 alone has the folders."""

    rank: int = 0
    size: int = 1

    @property
    def control(self) -> Any:
        """The process group for decisions between hosts."""
        return _GROUPS.get("control")

    @property
    def tensors(self) -> Any:
        """The process group for tensors on devices; on CPUs the same as ``control``."""
        return _GROUPS.get("tensors")

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def all_reduce_max(self, *flags: int, failed: bool = False) -> tuple[int, ...]:
        """The largest value that any rank gave for each flag; PeerError where another failed."""
        if self.size == 1:
            return flags
        padding = [0] * (_MAX_FLAGS - len(flags))
        values = torch.tensor([failed, *map(int, flags), *padding], dtype=torch.int64)
        torch.distributed.all_reduce(values, torch.distributed.ReduceOp.MAX, group=self.control)
        if values[0] and not failed:
            raise PeerError
        return tuple(values[1 : 1 + len(flags)].tolist())

    def all_gather(self, value: Any, *, check: bool = True) -> list[Any]:
        """Every rank's value, in order; PeerError where one failed first, unless ``check`` is off."""
        if self.size == 1:
            return [value]
        if check:
            self.all_reduce_max()
        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value, group=self.control)
        return values

    def broadcast(self, value: Any = None) -> Any:
        """Rank 0's value on every rank; those of the others are ignored."""
        if self.size == 1:
            return value
        values = [value if self.is_main else None]
        torch.distributed.broadcast_object_list(values, src=0, group=self.control)
        return values[0]

    def all_reduce_sum(self, tensors: Sequence[torch.Tensor]) -> None:
        """Each tensor becomes its sum over the ranks, in place, without waiting for the device."""
        if self.size == 1:
            return
        under_way = []
        buckets = torch._utils._take_tensors(tensors, _BUCKET_BYTES)  # type: ignore[no-untyped-call]  # private, without types
        for bucket in buckets:  # of one type each
            flat = torch.cat([t.detach().flatten() for t in bucket])
            work = torch.distributed.all_reduce(flat, group=self.tensors, async_op=True)
            under_way.append((bucket, flat, work))
        for bucket, flat, work in under_way:
            work.wait()
            parts = torch.split(flat, [t.numel() for t in bucket])
            views = [part.view_as(t) for part, t in zip(parts, bucket, strict=True)]
            torch._foreach_copy_(bucket, views)

    def broadcast_tensors(self, tensors: Sequence[torch.Tensor]) -> None:
        """Each tensor becomes rank 0's, in place."""
        if self.size == 1:
            return
        for tensor in tensors:
            contiguous = tensor.detach().contiguous()
            torch.distributed.broadcast(contiguous, src=0, group=self.tensors)
            tensor.detach().copy_(contiguous)

    def shard(self, samples: int) -> tuple[int, int]:
        """First and last of a batch's ``samples`` that are this rank's, the last excluded.

        >>> [Ranks(rank, 3).shard(8) for rank in range(3)]
        [(0, 2), (2, 5), (5, 8)]
        """
        return samples * self.rank // self.size, samples * (self.rank + 1) // self.size


ALONE = Ranks()


def launched() -> int:
    """How many processes the launcher started together; InputError where it shards, or started fewer."""
    size = max(int(os.environ.get(variable, "1")) for variable in _SIZES)
    for variable, name in _SHARDED.items():
        if os.environ.get(variable, "false").lower() in ("true", "1"):
            raise InputError(
                f"ranks: expected a launch that leaves sharding to the trainer; {variable} asks for {name}. "
                "Launch with torchrun, and give TrainingConfig(sharding='fsdp') to cut models over the ranks."
            )
    by_accelerate = "ACCELERATE_MIXED_PRECISION" in os.environ
    if by_accelerate and "MASTER_ADDR" in os.environ and "LOCAL_RANK" not in os.environ:
        raise InputError(
            "data parallel: accelerate launch was asked for several processes and started one, as it "
            "does with --cpu. Launch with: ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 script.py"
        )
    return size


def rank_device(device: str) -> str:
    """The device with this rank's local number; InputError for one that all ranks would share."""
    kind, _, number = device.partition(":")
    if launched() == 1 or kind == "cpu":
        return device
    mine = os.environ.get("LOCAL_RANK", "0")
    if kind not in ("cuda", "xpu") or number not in ("", mine):
        raise InputError(
            f"device: expected 'auto', 'cuda', 'xpu' or 'cpu', of which each rank takes its own; got "
            f"{device!r} in a launch of {launched()} processes."
        )
    return f"{kind}:{mine}"


def join_ranks(device: str) -> Ranks:
    """Join the other ranks by Accelerate; InputError where fewer came than the launcher announced."""
    size = launched()
    return ALONE if size == 1 else _join(size, device.partition(":")[0] == "cpu")


@functools.cache  # a process joins its group once
def _join(size: int, on_cpu: bool) -> Ranks:
    accelerate = import_extra("accelerate", "train", "training by several processes")
    fresh = {} if torch.distributed.is_initialized() else {"timeout": _TIMEOUT}
    state = accelerate.PartialState(cpu=on_cpu, **fresh)
    if state.num_processes != size:
        raise InputError(
            f"data parallel: expected the {size} processes that were launched; Accelerate found "
            f"{state.num_processes}. Launch with: torchrun --nproc_per_node {size} script.py"
        )
    tensors = control = torch.distributed.new_group(timeout=_TIMEOUT)
    if torch.distributed.get_backend() != "gloo":
        control = torch.distributed.new_group(backend="gloo", timeout=_TIMEOUT)
    _GROUPS.update(tensors=tensors, control=control)
    atexit.register(_leave, bool(fresh))
    return Ranks(state.process_index, size)


def _leave(whole: bool) -> None:
    """Leave the groups that this process made, so that their threads end before Python does.

    A thread that frees a tensor when Python has gone aborts the process. The default group may not be used
    at the end: modules of torch keep it, so its threads go on.
    """
    groups = [None] if whole else list(dict.fromkeys(_GROUPS.values()))  # None is all of them
    _GROUPS.clear()
    if torch.distributed.is_initialized():
        for group in groups:
            torch.distributed.destroy_process_group(group)
