"""One optimiser step on one global batch, whatever part of it fits into memory at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flops_fit.errors import DataError, InputError
from flops_fit.objective import Objective, batch_length, check_loss, map_tensors

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Stepper", "check_microbatch", "is_out_of_memory", "split_batch"]


@dataclass
class Stepper:
    """Gradient of the mean loss over a batch's units, clipped, and a step along it.

    Called with a batch on the host; its parts are moved to the device one by one.

    The gradient is that of Σ loss / Σ units over the whole batch. A batch that is cut into
    microbatches adds up sums and divides once by the units of all of them: a mean of the
    microbatches' means would weigh a unit in a short one more.

    Attributes
    ----------
    microbatch
        Samples that go through the model at once. Where they do not fit it is halved, and the batch
        is begun again: the batch that the optimiser sees stays as planned.
    notes
        What had to be changed, in words.
    """

    model: Any
    objective: Objective
    optimizer: Any
    clip: float
    microbatch: int
    device: str
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    notes: list[str] = field(default_factory=list)

    def __call__(self, batch: Any) -> tuple[Tensor, Any, Tensor]:
        """Step once; the mean loss, the number of units and the gradient's norm, on the device."""
        while True:
            try:
                loss, units = self._gradient(batch)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or self.microbatch == 1:
                    raise
                self._halve(batch)
                continue
            norm = self._clip()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            return loss, units, norm

    def _gradient(self, batch: Any) -> tuple[Tensor, Any]:
        parts = list(split_batch(batch, self.microbatch))
        if len(parts) == 1:
            total, units = self._forward(parts[0])
            loss = total / units
            loss.backward()
            return loss.detach(), units
        import torch

        summed, units = torch.zeros((), device=self.device), 0
        share = 1.0 / len(parts)  # keeps sums near the size of a mean while they add up
        for part in filter(self._counts, parts):
            total, count = self._forward(part)
            part_sum = total * share
            part_sum.backward()  # type: ignore[no-untyped-call]
            summed += part_sum.detach()
            units = units + count
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        per_unit = 1.0 / (share * units)
        torch._foreach_mul_(gradients, per_unit)
        return summed * per_unit, units

    def _forward(self, part: Any) -> tuple[Tensor, Any]:
        """Sum of the loss and units of what goes through at once, moved to the device."""
        there = map_tensors(part, lambda t: t.to(self.device, non_blocking=True))
        with self.autocast():
            total, units = self.objective(self.model, there)
        return check_loss(total), units

    def _counts(self, part: Any) -> bool:
        """Whether a part has any unit: the mean over none is not a number."""
        return self.objective.step_fn is not None or int(self.objective.count(part)) > 0

    def _clip(self) -> Tensor:
        import torch

        return torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)

    def _halve(self, batch: Any) -> None:
        """Free what the failed pass left, and go on with half as many samples at once."""
        import torch

        self.optimizer.zero_grad(set_to_none=True)
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()
        before = min(self.microbatch, batch_length(batch))
        self.microbatch = max(before // 2, 1)
        self.notes.append(
            f"out of memory with {before} samples at once: {self.microbatch} from then on"
        )


def split_batch(batch: Any, size: int) -> Iterator[Any]:
    """A batch as parts of at most ``size`` samples: every tensor is cut along its first dimension.

    Raises
    ------
    DataError
        A tensor of the batch has another first dimension, so that it is not known how to cut it.
    """
    length = batch_length(batch)
    if size >= length:
        yield batch
        return
    for first in range(0, length, size):
        cut = functools.partial(_part, first, min(first + size, length), length)
        yield map_tensors(batch, cut)


def _part(first: int, last: int, length: int, tensor: Tensor) -> Tensor:
    if tensor.dim() == 0:
        return tensor
    if tensor.shape[0] != length:
        raise DataError(
            f"microbatches: expected every tensor of a batch to hold {length} samples along its first "
            f"dimension; one has the shape {tuple(tensor.shape)}. Use batches that fit at once, or a "
            "collate_fn that puts samples first."
        )
    return tensor[first:last]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a device or on the host."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    host = "can't allocate memory" in text or "not enough memory" in text
    return isinstance(error, RuntimeError) and (host or "out of memory" in text)


def check_microbatch(microbatch: Any) -> int | None:
    """``None``, or a positive whole number of samples."""
    if microbatch is None:
        return None
    if isinstance(microbatch, bool) or not isinstance(microbatch, int) or microbatch < 1:
        raise InputError(
            f"microbatch: expected a whole number of samples, 1 or more; got {microbatch!r}."
        )
    return microbatch
