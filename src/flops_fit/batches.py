"""Batches whatever they are made of: tuples, dicts, dataclasses, graphs, packed sequences."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from flops_fit.errors import DataError
from flops_fit.lazy import torch


def fields_of(value: Any) -> dict[str, Any] | None:
    """The fields of a dataclass by name; ``None`` for a class, a dict and anything else."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type | Mapping):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    return None


def by_name(batch: Any) -> Mapping[str, Any] | None:
    """A dict, or a dataclass as one; ``None`` where the batch has no names."""
    return batch if isinstance(batch, Mapping) else fields_of(batch)


def is_of_samples(targets: Any) -> bool:
    """Whether targets are a tensor or dicts with an entry for each sample, as boxes of images are."""
    return _are_dicts(targets) or len(getattr(targets, "shape", ())) > 0


def _are_dicts(samples: Any) -> bool:
    """Whether a batch has a dict of the same names for each sample; one of inputs has others than targets."""
    listed = isinstance(samples, tuple | list) and all(isinstance(s, Mapping) for s in samples)
    return listed and len({frozenset(s) for s in samples}) == 1


def batch_length(batch: Any, axes: Sequence[int] = ()) -> int:
    """Number of samples in a batch: the first dimension of its first tensor, or that of known ``axes``."""
    if axes and len(tensors := tensors_of(batch)) == len(axes):
        lengths = (t.shape[axis] for t, axis in zip(tensors, axes, strict=True) if t.dim() > axis)
        return int(next(lengths, 1))
    if hasattr(batch, "shape"):
        return int(batch.shape[0]) if len(batch.shape) else 1
    named = by_name(batch)
    if named is None and (_are_dicts(batch) or not isinstance(batch, tuple | list)):
        return len(batch)
    parts = list(batch if named is None else named.values())
    options = (int, float, str, type(None))  # such as return_loss=True
    return batch_length(next((p for p in parts if not isinstance(p, options)), parts[0]))


def split_batch(batch: Any, size: int, axes: Sequence[int] = ()) -> Iterator[Any]:
    """A batch as parts of at most ``size`` samples: every tensor is cut along its dimension of ``axes``.

    That is the first one where ``axes`` has not one for each tensor.
    """
    axes = axes if axes and len(tensors_of(batch)) == len(axes) else ()
    length = batch_length(batch, axes)
    if size >= length:
        yield batch
        return

    for first in range(0, length, size):
        places = iter(axes)

        def cut(tensor: torch.Tensor, first: int = first, places: Any = places) -> torch.Tensor:
            axis = next(places, 0)
            if not tensor.dim():
                return tensor
            if tensor.dim() <= axis or tensor.shape[axis] != length:
                raise DataError(
                    f"microbatches: expected {length} samples along dimension {axis} of a tensor of a batch; "
                    f"it has the shape {tuple(tensor.shape)}. Use batches that fit at once, or a collate_fn "
                    "that puts samples first."
                )
            return tensor[(slice(None),) * axis + (slice(first, first + size),)]

        yield map_tensors(batch, cut)


def sample_axes(twice: Any, thrice: Any) -> tuple[int, ...]:
    """Of each tensor the dimension of its samples, from batches of one sample two times and three times.

    The first one of a tensor that does not grow so; none where batches differ in their tensors.
    """
    pairs = [tensors_of(batch) for batch in (twice, thrice)]
    if len(pairs[0]) != len(pairs[1]):
        return ()

    def axis(two: Any, three: Any) -> int:
        shapes = enumerate(zip(two.shape, three.shape, strict=False))
        return next((place for place, lengths in shapes if lengths == (2, 3)), 0)

    return tuple(map(axis, *pairs))


def map_tensors(value: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """``value`` with every tensor in it changed, whatever the nesting."""
    if hasattr(value, "detach") and hasattr(value, "dtype"):
        return change(value)
    if isinstance(value, Mapping):
        changed = {k: map_tensors(v, change) for k, v in value.items()}
        copied: Any = copy.copy(value)  # HuggingFace's BatchEncoding, a defaultdict, one's own
        if not hasattr(copied, "__setitem__"):
            return type(copied)(changed)
        for key, item in changed.items():
            copied[key] = item
        return copied
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        if hasattr(value, "batch_sizes"):  # a PackedSequence, whose sizes torch keeps on the CPU
            kind: Any = type(value)
            data, sizes, *orders = value
            return kind(change(data), sizes, *(map_tensors(v, change) for v in orders))
        return type(value)(*(map_tensors(v, change) for v in value))
    if isinstance(value, list | tuple):
        return type(value)(map_tensors(v, change) for v in value)
    parts = fields_of(value)
    if parts is None:
        if hasattr(value, "to") and hasattr(value, "apply"):  # graphs of PyG
            return copy.copy(value).apply(change)
        parts = getattr(value, "__dict__", {})
        if not any(hasattr(part, "detach") for part in parts.values()):
            return value
    return with_parts(value, {name: map_tensors(part, change) for name, part in parts.items()})


def with_parts(value: Any, parts: Mapping[str, Any]) -> Any:
    """A copy with other attributes, not by its constructor: it may check or convert what it gets."""
    copied = copy.copy(value)
    for name, part in parts.items():
        object.__setattr__(copied, name, part)
    return copied


def tensors_of(batch: Any) -> list[Any]:
    """All tensors of a batch, in order."""
    out: list[Any] = []
    map_tensors(batch, lambda t: out.append(t.values() if t.layout == torch.jagged else t))
    return out


def to_device(batch: Any, device: str) -> Any:
    """A batch on ``device``, copied without waiting to CUDA, and in float32 to MPS, which has no float64."""
    kind = device.partition(":")[0]

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        if kind == "mps" and tensor.dtype == torch.float64:
            tensor = tensor.float()
        return tensor.to(device, non_blocking=kind == "cuda")

    return map_tensors(batch, moved)


def free_memory(device: str) -> None:
    """Give what torch keeps of a device's memory, and no tensor uses, back to the device."""
    if (kind := torch.device(device).type) in ("cuda", "xpu", "mps"):
        getattr(torch, kind).empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a device or on the host."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    texts = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in texts)
