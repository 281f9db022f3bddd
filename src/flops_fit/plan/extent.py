"""Whether loss and units add up: those of a batch against those of its parts, with the same weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from flops_fit import rng
from flops_fit.data.spec import DataSpec
from flops_fit.errors import DataError, LossError
from flops_fit.model.spec import ModelSpec, Size
from flops_fit.objective import STEP_ADVICE, Objective, split_batch
from flops_fit.plan.findings import smallest_built
from flops_fit.records import Diagnostic

JUDGED_ON = 64  # samples of a held-out batch where runs differ in their batches
_MOST_SAMPLES = 256
_FEW_SAMPLES = 8  # of the smaller batches, which are compared with pairs
_MOST_FLOPS = 5e8  # of a batch in training: ten milliseconds on a slow core
_DEAREST_FLOPS = 4e10  # of the fewest samples that tell something
_DRAWS, _FEW_DRAWS = 24, 4  # of a loss that draws random numbers; of one that is dear
_DESCENT, _RATE = 50, 0.05  # steps along one small batch, to see whether its loss falls below zero
_TOLERANCE = 2e-3  # of a loss, above rounding in float32
_ERRORS = 5.0  # standard errors beyond the tolerance, for a loss that draws
_NOISE = 0.5  # on what a weight sums up: an output layer that begins at zero has the same loss everywhere


@dataclass(frozen=True)
class Extent:
    """Where a loss does not add up: held-out batches of ``judged_on`` samples, none of them split.

    ``divisible``: whether a batch may be cut into microbatches.
    """

    judged_on: int | None = None
    divisible: bool = True
    findings: tuple[Diagnostic, ...] = ()

    @property
    def conditions(self) -> list[str]:
        """What of it decides how runs come out."""
        return [] if self.judged_on is None else [f"judged on {self.judged_on}"]


class _Comparison(NamedTuple):
    """A batch and its parts: relative differences, losses, and whether the first may be rounding."""

    samples: int
    units: tuple[float, float]  # of the batch, of its parts together
    losses: tuple[float, list[float]]
    excess: float  # of the batch's loss times its units, relative
    differs: bool

    @property
    def recounts(self) -> bool:
        """Whether the parts together have other units than the batch."""
        whole, parts = self.units
        return abs(whole - parts) > 1e-3 * whole

    @property
    def outside(self) -> bool:
        """Whether the batch's loss is no mean of its parts' losses, whatever their weights."""
        whole, parts = self.losses
        margin = _TOLERANCE * max(map(abs, (whole, *parts)))
        return self.differs and not min(parts) - margin <= whole <= max(parts) + margin


@dataclass
class Judge:
    """Sum of the loss and units of a batch, from the same weights and random numbers."""

    model: Any
    objective: Objective
    repeats: int = _DRAWS
    draws: bool = False

    def __call__(self, batch: Any, seed: int = 0) -> tuple[float, float]:
        """The two numbers; whether they draw is noted."""
        rng.seed(seed)
        untouched = rng.draw()
        rng.seed(seed)
        total, units = self.objective(self.model, batch)
        self.draws |= rng.draw() != untouched
        return float(total.detach()), float(units)

    def compare(self, samples: int, whole: Any, parts: Sequence[Any]) -> _Comparison | None:
        """A batch against its parts; ``None`` where a loss is not finite."""
        batches = [whole, *(part for part in parts if self.objective.has_units(part))]
        rows = [[self(batch) for batch in batches]]
        if self.draws:
            rows += [[self(batch, seed) for batch in batches] for seed in range(1, self.repeats)]
        sums, units = np.moveaxis(np.array(rows), 2, 0)
        if len(batches) < 3 or not np.isfinite(sums).all() or (units <= 0).any():
            return None
        losses = (sums.sum(0) / units.sum(0)).tolist()
        scale = max(map(abs, losses)) * units[:, 0]
        excess = (sums[:, 0] - sums[:, 1:].sum(1)) / np.maximum(scale, 1e-12)
        error = float(excess.std(ddof=1)) / len(rows) ** 0.5 if len(rows) > 1 else 0.0
        mean = float(excess.mean())
        apart = float(units[:, 0].mean()), float(units[:, 1:].sum(1).mean())
        differs = abs(mean) > _TOLERANCE + _ERRORS * error
        found = _Comparison(samples, apart, (losses[0], losses[1:]), mean, differs)
        if differs and not found.recounts:
            self._refuse_mean_or_sum(sums.mean(0), losses)
        return found

    def _refuse_mean_or_sum(self, sums: Any, losses: Sequence[float]) -> None:
        """Refuse a mean where a sum belongs, and a sum where a mean does: both would fit no law."""
        if self.objective.step_fn is not None and _same(sums[0], sums[1:].mean()):
            raise LossError(
                "step_fn: expected (loss·n, n), the sum of the loss over n units; the first value is the "
                f"same for a batch and for its parts, so it is a mean. To sum it, {STEP_ADVICE}"
            )
        if self.objective.step_fn is None and _same(losses[0], sum(losses[1:])):
            raise LossError(
                "loss_fn: expected the mean over the batch's units; the loss of a batch is the sum of "
                'the losses of its parts. Use reduction="mean".'
            )


def _same(a: float, b: float) -> bool:
    return bool(abs(a - b) < 1e-4 * abs(b))


def examine(
    spec: ModelSpec,
    size: Size | None,
    objective: Objective,
    split: tuple[DataSpec, DataSpec],
    batch_size: int | str,
    cost: Callable[[Size], float],
) -> Extent:
    """Compare the loss of a few batches with that of their parts, in a small model of the sweep.

    The model is evaluated, on the CPU; ``cost`` is that of a sample, in training FLOPs. What the model or
    the loss raises is left to training to report.
    """
    data, held_out = split
    if size is not None and spec.size_param and cost(size) * _FEW_SAMPLES > _MOST_FLOPS:
        size = smallest_built(spec, None)
    if size is None:
        return Extent()
    per_sample = max(cost(size), 1.0)
    most = int(_MOST_FLOPS / per_sample)
    repeats = _DRAWS if most >= 4 else _FEW_DRAWS
    most = 4 if most < 4 <= _DEAREST_FLOPS / per_sample else most
    wanted = batch_size if isinstance(batch_size, int) else JUDGED_ON
    many = min(wanted, _MOST_SAMPLES, most, data.size or most) // 2 * 2
    few = min(_FEW_SAMPLES, many)
    if few < 4:
        return Extent()
    try:
        with rng.kept():
            rng.seed(0)
            judge = Judge(_perturbed(spec.build(size).eval()), objective, repeats)
            samples = data.spread(max(many, 3 * few))
            cuts = [(samples[:many], many // 2), (samples[:few], 2), (samples[-few:], 2)]
            made = [_made(data, *cut) for cut in cuts]
            compared = [judge.compare(n, whole, parts) for n, whole, parts in made]
            known = [c for c in compared if c is not None]
            adds_up = not any(c.differs or c.recounts for c in known)
            divisible = adds_up or _divides(judge, made)
            below = _below_zero(judge, made[1][1]) if repeats == _DRAWS else ()
    except LossError:
        raise
    except Exception:  # the user's code may raise anything
        return Extent()
    if adds_up:
        again = judge.draws and held_out.size is None
        return Extent(JUDGED_ON if again else None, findings=below)
    judged_on = min(wanted, held_out.size or wanted)
    finding = _finding(known, judged_on, divisible, batch_size)
    return Extent(judged_on, divisible, (finding, *below))


def _below_zero(judge: Judge, batch: Any) -> tuple[Diagnostic, ...]:
    """Whether the loss of one batch falls below zero when the model is fitted to it."""
    import torch

    if judge.objective.has_classes(batch):  # whose losses are entropies
        return ()
    parameters = [p for p in judge.model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=_RATE)
    for step in range(_DESCENT):
        total, units = judge.objective(judge.model, batch)
        if (loss := float(total.detach()) / float(units)) < -_TOLERANCE:
            message = (
                f"The loss falls below zero ({loss:.3g} after {step} steps on one batch), as the likelihood "
                "of a density does. The law is then fitted to L itself, and its E may be negative; a "
                "percentage of a loss near zero says little."
            )
            return (Diagnostic("negative_loss", "note", message),)
        if not math.isfinite(loss):
            break
        optimizer.zero_grad()
        (total / units).backward()
        optimizer.step()
    return ()


def _divides(judge: Judge, made: Sequence[tuple[int, Any, list[Any]]]) -> bool:
    """Whether batches that are collated can be cut without changing their loss."""
    try:
        cut = [judge.compare(n, whole, list(split_batch(whole, n // 2))) for n, whole, _ in made]
    except DataError:
        return False
    return not any(c is not None and c.differs for c in cut)


def _perturbed(model: Any) -> Any:
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.is_floating_point():
                inputs = parameter[0].numel() if parameter.dim() > 1 else 1 / _NOISE
                parameter.add_(torch.randn_like(parameter), alpha=_NOISE / inputs**0.5)
    return model


def _made(data: DataSpec, samples: list[Any], part: int) -> tuple[int, Any, list[Any]]:
    """The samples as a batch, and as parts of it: collated themselves, so that they pad as they do."""

    def collate(chosen: list[Any]) -> Any:
        rng.seed(0)
        return data.collate(chosen)

    whole = collate(samples)
    rng_after, untouched = rng.draw(), _after_seed()
    if rng_after != untouched:  # it masks at random: parts would have other masks
        return len(samples), whole, list(split_batch(whole, part))
    starts = range(0, len(samples), part)
    return len(samples), whole, [collate(samples[i : i + part]) for i in starts]


def _after_seed() -> tuple[float, float, float]:
    rng.seed(0)
    return rng.draw()


def _finding(
    known: Sequence[_Comparison], judged_on: int, divisible: bool, batch_size: int | str
) -> Diagnostic:
    """The clearest difference, in words."""
    judged = f"All runs are judged on held-out batches of {judged_on} samples"
    judged += "." if divisible else ", and no batch is split into microbatches."
    if recounted := [c for c in known if c.recounts]:
        c = max(recounted, key=lambda c: abs(c.units[0] / c.units[1] - 1))
        message = (
            f"A batch of {c.samples} samples counts {c.units[0]:.5g} units and its parts "
            f"{c.units[1]:.5g}: units depend on how samples are put together, as where padding is "
            f"counted. {judged}"
        )
        action = "pad targets with -100, or give count_fn= that counts what the loss averages"
        return Diagnostic("units_of_batches", "warning", message, action)
    apart = [c for c in known if c.differs]
    if all(c.outside for c in apart):
        c = max(apart, key=lambda c: c.samples)
        parts = " and ".join(f"{loss:.4g}" for loss in c.losses[1][:2])
        message = (
            f"The loss of a batch of {c.samples} samples is {c.losses[0]:.4g}, and of parts of it {parts}: "
            f"it belongs to the batch as a whole, as a contrastive loss does. {judged}"
        )
        if isinstance(batch_size, int):
            return Diagnostic("whole_batch_loss", "note", message)
        action = "one batch_size for all runs: with others each run has another loss"
        return Diagnostic("whole_batch_loss", "warning", message, action)
    c = max(apart, key=lambda c: abs(c.excess))
    message = (
        f"The loss of a batch of {c.samples} samples, times its units, lies {abs(c.excess):.1%} "
        f"{'above' if c.excess > 0 else 'below'} that of its parts together: it is no mean over the units "
        "that are counted, as with class weights, an ignore_index of its own, padding in the mean, or a "
        f"root of the mean. {judged}"
    )
    action = (
        "count_fn= that counts what the loss averages (weights summed), or step_fn= -> (sum, n)"
    )
    return Diagnostic("loss_no_mean", "warning", message, action)
