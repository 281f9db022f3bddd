"""One optimiser step on one global batch, whatever part of it is here or fits into memory at once."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flops_fit.distributed import ALONE, Ranks
from flops_fit.errors import DataError, ModelError
from flops_fit.hparams import HParams
from flops_fit.mup.parametrization import Parametrization
from flops_fit.objective import Objective, batch_length, check_loss, map_tensors, to_device
from flops_fit.train.compile import Forward
from flops_fit.train.optimizer import MakeOptimizer, make_optimizer

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer


@dataclass
class Stepper:
    """Gradient of the mean loss over a batch's units, clipped, and a step along it.

    Called with this rank's share of a batch on the host, ``None`` where that is empty; its parts
    are moved to the device one by one.

    The gradient is that of Σ loss / Σ units over the whole batch. A batch that is cut into
    microbatches, or shared among ranks, adds up sums and divides once by the units of all of them: a
    mean of the parts' means would weigh a unit in a short one more.

    Attributes
    ----------
    samples
        In the whole batch.
    microbatch
        Samples that go through the model at once. Where they do not fit it is halved, on every rank,
        and the batch is begun again: the batch that the optimiser sees stays as planned.
    ranks
        Those that share the batch.
    notes
        What had to be changed, in words.
    """

    model: Any
    objective: Objective
    optimizer: Any
    clip: float
    samples: int
    microbatch: int
    device: str
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    ranks: Ranks = ALONE
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._asked = self.microbatch
        self._passes = Forward(self.model)

    @property
    def halved(self) -> bool:
        """Whether memory ran out, in this attempt or in one that it goes on from."""
        return self.microbatch < self._asked

    def compile(self) -> None:
        """Compile forward passes from here on; where that fails, steps are made without."""
        self._passes.compile()

    def __call__(self, batch: Any) -> tuple[Tensor, Any, Tensor]:
        """Step once; the mean loss, the number of units and the gradient's norm, on the device."""
        self._passes.begin()
        while True:
            short = False
            try:
                loss, units = self._gradient(batch)
            except Exception as error:  # a compiler may raise anything
                if is_out_of_memory(error) and self.microbatch > 1:
                    short = True
                elif self._passes.gave_up(error):
                    self.optimizer.zero_grad(set_to_none=True)
                    continue
                else:
                    raise
            if self.ranks.size > 1:
                short, apart = map(bool, self.ranks.all_reduce_max(short, self._misses()))
            if short:
                self._halve()
                continue
            if self.ranks.size > 1:
                loss, units = self._add_up(loss, units, apart)
            if note := self._passes.worked():
                self.notes.append(note)
            norm = self._clip()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            return loss, units, norm

    def _gradient(self, batch: Any) -> tuple[Tensor, Any]:
        """The gradient of what is here: of the mean if that is all, else of a share of the sum."""
        parts = [] if batch is None else list(split_batch(batch, self.microbatch))
        parts = [part for part in parts if self.objective.has_units(part)]
        if len(parts) == self._pieces == 1:
            total, units = self._forward(parts[0])
            loss = total / units
            loss.backward()
            return loss.detach(), units
        import torch

        summed, units = torch.zeros((), device=self.device), 0
        share = 1.0 / self._pieces  # keeps sums near the size of a mean while they add up
        for part in parts:
            total, count = self._forward(part)
            part_sum = total * share
            part_sum.backward()  # type: ignore[no-untyped-call]
            summed += part_sum.detach()
            units = units + count
        if self.ranks.size == 1:
            summed = self._divide(summed, units)
        return summed, units

    @property
    def _pieces(self) -> int:
        """How many parts a batch is cut into on all ranks together, at the most."""
        here = math.ceil(self.samples / self.ranks.size)
        return self.ranks.size * math.ceil(here / self.microbatch)

    def _divide(self, summed: Tensor, units: Any) -> Tensor:
        """Shares of sums become means over all units; a batch without any has no gradient."""
        import torch

        per_unit = self._pieces / torch.as_tensor(units, device=self.device).clamp(min=1)
        if gradients := [p.grad for p in self.model.parameters() if p.grad is not None]:
            torch._foreach_mul_(gradients, per_unit)
        mean: Tensor = summed * per_unit
        return mean

    def _misses(self) -> bool:
        """Whether the loss of what is here leaves a parameter out."""
        return any(p.grad is None for p in self.model.parameters() if p.requires_grad)

    def _add_up(self, summed: Tensor, units: Any, apart: bool) -> tuple[Tensor, Tensor]:
        """The gradient, the loss and the units of all ranks, some of which may miss parameters."""
        import torch

        if apart:
            self._fill()
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        if any(g.layout != torch.strided for g in gradients):
            raise ModelError(
                "data parallel: expected dense gradients; an embedding has sparse=True. Leave it out."
            )
        counted = torch.as_tensor(units, dtype=torch.int64, device=self.device)
        self.ranks.all_reduce_sum([counted, summed, *gradients])
        return self._divide(summed, counted), counted

    def _fill(self) -> None:
        """Zeros for a gradient that is missing here and there is elsewhere.

        All of this rank's targets may be masked, or its samples take another way through the model.
        What no rank reaches keeps no gradient, so that it is not decayed.
        """
        import torch

        parameters = [p for p in self.model.parameters() if p.requires_grad]
        by_rank = self.ranks.all_gather([p.grad is None for p in parameters])
        for parameter, missing in zip(parameters, zip(*by_rank, strict=True), strict=True):
            if parameter.grad is None and not all(missing):
                parameter.grad = torch.zeros_like(parameter)

    def _forward(self, part: Any) -> tuple[Tensor, Any]:
        """Sum of the loss and units of what goes through at once, moved to the device."""
        there = to_device(part, self.device)
        with self.autocast():
            total, units = self.objective(self._passes.used, there)
        return check_loss(total), units

    def _clip(self) -> Tensor:
        import torch

        return torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)

    def _halve(self) -> None:
        """Free what the failed pass left, and go on with half as many samples at once."""
        import torch

        self.optimizer.zero_grad(set_to_none=True)
        kind = torch.device(self.device).type
        if kind in ("cuda", "xpu", "mps"):
            getattr(torch, kind).empty_cache()
        before = min(self.microbatch, math.ceil(self.samples / self.ranks.size))
        self.microbatch = max(before // 2, 1)
        self.notes.append(
            f"out of memory with {before} samples at once: {self.microbatch} from then on"
        )


def whole_batch_step(
    model: Any,
    objective: Objective,
    hparams: HParams,
    samples: int,
    device: str,
    optimizer: MakeOptimizer | type[Optimizer] | None = None,
    parametrization: Parametrization | None = None,
) -> Stepper:
    """Steps of one process that put whole batches of ``samples`` through the model at once."""
    return Stepper(
        model=model,
        objective=objective,
        optimizer=make_optimizer(model, hparams, optimizer, None, parametrization),
        clip=hparams.clip,
        samples=samples,
        microbatch=samples,
        device=device,
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
