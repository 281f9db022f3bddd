"""One optimizer step on one global batch, whichever part of it is here or fits into memory at once."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

from flops_fit import rng
from flops_fit.batches import free_memory, is_out_of_memory, split_batch, to_device
from flops_fit.distributed import ALONE, Ranks
from flops_fit.errors import InputError
from flops_fit.lazy import nn, torch
from flops_fit.objective import Objective, check_loss, refuse_sparse_gradients

INDIVISIBLE = (
    "the loss or a BatchNorm depends on which samples pass together, or a batch cannot be cut"
)


@dataclass
class Stepper:
    """A step along the clipped gradient of the mean loss over a batch's units.

    Called with this rank's share of a batch of ``samples``, or ``None``. Where ``microbatch`` samples do
    not fit, they are halved on every rank.
    """

    model: nn.Module
    objective: Objective
    optimizer: torch.optim.Optimizer
    clip: float
    samples: int
    microbatch: int
    device: str
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    ranks: Ranks = ALONE
    notes: list[str] = field(default_factory=list)
    divisible: bool = True  # whether parts of a batch have the gradient of the whole
    cut: Callable[[Any, int], Iterator[Any]] = split_batch
    sharded: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.divisible and self.ranks.size > 1:
            raise InputError(
                f"ranks: expected one process, as {INDIVISIBLE}; got {self.ranks.size}. Train "
                "several runs at the same time instead, with executor='pool'."
            )
        self._planned_microbatch = self.microbatch
        self._local_samples = math.ceil(self.samples / self.ranks.size)  # the most on one rank
        self._forward = CompiledForward(self.model)

    @property
    def halved(self) -> bool:
        """Whether memory ran out, in this attempt or in one that it continues."""
        return self.microbatch < self._planned_microbatch

    def compile(self) -> None:
        """Compile forward passes from here on; if that fails, steps are made without."""
        self._forward.compile()

    def state(self) -> dict[str, Any]:
        """Weights and the optimizer's state."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state` gave."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    def __call__(self, batch: Any) -> tuple[torch.Tensor, Any, torch.Tensor]:
        """Step once; the mean loss, the number of units and the gradient's norm, on the device."""
        self._forward.begin_step()
        while True:
            too_large = False
            try:
                loss, units = self._gradient(batch)
            except Exception as error:  # a compiler may raise anything
                if is_out_of_memory(error) and self.microbatch > 1:
                    if not self.divisible:
                        raise MemoryError(
                            f"a batch of {self.samples} samples does not fit into memory, and it cannot be "
                            f"split, as {INDIVISIBLE}. Give a smaller batch_size."
                        ) from error
                    too_large = True
                elif self._forward.recover(error):
                    self.optimizer.zero_grad(set_to_none=True)
                    continue
                else:
                    raise
            if self.ranks.size > 1:
                trained = (p for p in self.model.parameters() if p.requires_grad)
                misses = any(p.grad is None for p in trained)
                too_large, partial = map(bool, self.ranks.all_reduce_max(too_large, misses))
            if too_large:
                self._halve()
                continue
            if self.ranks.size > 1:
                loss, units = self._add_up(loss, units, partial)
            if note := self._forward.end_step():
                self.notes.append(note)
            refuse_sparse_gradients(self.model)
            norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            return loss, units, norm

    def _gradient(self, batch: Any) -> tuple[torch.Tensor, Any]:
        """The gradient of what is here: of the mean if that is all, else of a share of the sum."""
        parts = [] if batch is None else [batch]
        if self.microbatch < self._local_samples:
            parts = [p for whole in parts for p in self.cut(whole, self.microbatch)]
        parts = [part for part in parts if self.objective.has_units(part)]
        if len(parts) == self._pieces == 1:
            total, units = self._pass(parts[0])
            loss = total / units
            loss.backward()
            return loss.detach(), units
        summed, units = torch.zeros((), device=self.device), 0
        share = 1.0 / self._pieces  # keeps sums near the size of a mean while they add up
        for part in parts:
            total, count = self._pass(part)
            part_sum = total * share
            part_sum.backward()  # type: ignore[no-untyped-call]  # it has no types
            summed += part_sum.detach()
            units = units + count
        if self.ranks.size == 1:
            summed = self._divide(summed, units)
        return summed, units

    def _pass(self, part: Any) -> tuple[torch.Tensor, Any]:
        """Sum of the loss and units of one part, moved to the device."""
        moved = to_device(part, self.device)
        with self.autocast():
            total, units = self.objective(self._forward.module, moved)
        return check_loss(total), units

    @property
    def _pieces(self) -> int:
        """The most parts that a batch is cut into, on all ranks together."""
        return self.ranks.size * math.ceil(self._local_samples / self.microbatch)

    def _divide(self, summed: torch.Tensor, units: Any) -> torch.Tensor:
        """Shares of sums become means over all units; a batch without any has no gradient."""
        per_unit = self._pieces / torch.as_tensor(units, device=self.device).clamp(min=1)
        if gradients := [p.grad for p in self.model.parameters() if p.grad is not None]:
            torch._foreach_mul_(gradients, per_unit)
        mean: torch.Tensor = summed * per_unit
        return mean

    def _add_up(
        self, summed: torch.Tensor, units: Any, partial: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The gradient, the loss and the units of all ranks, some of which may miss parameters."""
        if partial:  # all targets here may be masked, or samples take another way through the model
            trained = [p for p in self.model.parameters() if p.requires_grad]
            by_rank = self.ranks.all_gather([p.grad is None for p in trained])
            for parameter, missing in zip(trained, zip(*by_rank, strict=True), strict=True):
                # What no rank reaches keeps no gradient, so that it is not decayed.
                if parameter.grad is None and not all(missing):
                    parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        refuse_sparse_gradients(self.model)
        counted = torch.as_tensor(units, dtype=torch.int64, device=self.device)
        self.ranks.all_reduce_sum([counted, summed, *gradients])
        return self._divide(summed, counted), counted

    def _halve(self) -> None:
        """Free what the failed pass left, and continue with half as many samples at once."""
        self.optimizer.zero_grad(set_to_none=True)
        free_memory(self.device)
        before = min(self.microbatch, self._local_samples)
        self.microbatch = max(before // 2, 1)
        self.notes.append(
            f"out of memory with {before} samples at once: {self.microbatch} from then on"
        )


class CompiledForward:
    """Forward passes in training call its ``module``, perhaps compiled; the model itself is evaluated."""

    def __init__(self, model: Any) -> None:
        self.module = self._model = model
        self._note = ""
        self._before: tuple[rng.RngState, dict[str, Any]] | None = None
        self._proven = True

    def compile(self) -> None:
        """Let torch compile the model at its next pass."""
        self._proven = False
        # Runs of other sizes share the model's code, and torch compiles a code eight times at most.
        torch.compiler.reset()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's own, at its imports
                self.module = torch.compile(self._model)
        except Exception as error:  # a system or a Python that it does not support
            self._fall_back(error)
        else:
            self._note = "compiled by torch.compile"

    def begin_step(self) -> None:
        """Before the first step, save what a pass that fails half-way would leave changed."""
        if not self._proven and self._before is None:
            buffers = {name: b.detach().clone() for name, b in self._model.named_buffers()}
            self._before = rng.capture(), buffers

    def end_step(self) -> str:
        """A step's gradient is complete; what to note of it, once a run."""
        self._before, self._proven = None, True
        note, self._note = self._note, ""
        return note

    def recover(self, error: Exception) -> bool:
        """Whether ``error`` may come from compiling; if so the model is not compiled from here on."""
        by_compiler = type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))
        if self.module is self._model or (self._proven and not by_compiler):
            return False
        self._fall_back(error)
        return True

    def _fall_back(self, error: Exception) -> None:
        self.module = self._model
        reason = " ".join(str(error).strip().splitlines()[:2])  # which compiler, and what it said
        self._note = f"not compiled: {type(error).__name__}: {reason}"
        if self._before is not None:
            state, buffers = self._before
            rng.restore(state)
            with torch.no_grad():
                for name, buffer in self._model.named_buffers():
                    if name in buffers:
                        buffer.copy_(buffers[name])
        torch.compiler.reset()
