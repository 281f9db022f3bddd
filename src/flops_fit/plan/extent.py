"""Whether loss and units add up: those of a batch against those of its parts, with the same weights."""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from flops_fit import rng
from flops_fit.data.spec import DataSpec
from flops_fit.errors import LossError
from flops_fit.lazy import torch
from flops_fit.model.spec import ModelSpec, Size
from flops_fit.objective import STEP_ADVICE, Evaluator, Objective, counted
from flops_fit.plan.findings import in_words, smallest_built
from flops_fit.records import Diagnostic, Severity

JUDGED_ON = 64  # samples of a held-out batch where runs differ in their batches
_MOST_SAMPLES = 256
_FEW_SAMPLES = 8  # of the smaller batches, which are compared with pairs
_MOST_FLOPS = 5e8  # of a batch in training: ten milliseconds on a slow core
_DEAREST_FLOPS = 4e10  # of the fewest samples that tell something
_DRAWS, _FEW_DRAWS = 24, 4  # of a loss that draws random numbers; of one that is dear
_MOST_DRAWS = 200  # beyond which none are added where it is in doubt
_DESCENT, _RATE = 50, 0.05  # steps along one small batch, to see whether its loss falls below zero
_TOLERANCE = 2e-3  # of a loss, above rounding in float32
_ROUNDED = 4.0  # roundings of shorter numbers that a loss may be off by
_ERRORS, _SUSPECT = 5.0, 2.0  # standard errors beyond it, for a loss that draws: proven, in doubt
_NOISE = 0.5  # on what a weight sums up: an output layer that begins at zero has the same loss everywhere


@dataclass(frozen=True)
class Extent:
    """Where a loss does not add up: held-out batches of ``judged_on`` samples, none of them split.

    ``divisible``: whether a batch may be cut into microbatches. ``draws``: whether an evaluation draws.
    """

    judged_on: int | None = None
    divisible: bool = True
    draws: bool = False
    findings: tuple[Diagnostic, ...] = ()

    @property
    def conditions(self) -> list[str]:
        """What of it decides how runs come out."""
        judged = [] if self.judged_on is None else [f"judged on {self.judged_on}"]
        return judged + ["seeded draws"] * self.draws


class _Comparison(NamedTuple):
    """A batch and its parts: units of it and of them together, losses of it and of each."""

    samples: int
    units: tuple[float, float]
    losses: list[float]
    excess: float  # of the batch's loss times its units, relative
    differs: bool  # by more than rounding, and what is drawn
    tolerance: float  # relative

    @property
    def recounts(self) -> bool:
        """Whether the parts together have other units than the batch."""
        return abs(self.units[0] - self.units[1]) > 1e-3 * self.units[0]

    @property
    def outside(self) -> bool:
        """Whether the batch's loss is no mean of its parts' losses, whatever their weights."""
        whole, *parts = self.losses
        margin = self.tolerance * max(map(abs, self.losses))
        return not min(parts) - margin <= whole <= max(parts) + margin


def compare(
    judge: Evaluator, samples: int, whole: Any, parts: Sequence[Any], repeats: int = _DRAWS
) -> _Comparison | None:
    """A batch against its parts; ``None`` where a loss is not finite.

    A mean where a sum belongs, or a sum where a mean does, is refused: it would fit no law.
    """
    own_step, tolerance = judge.objective.step_fn is not None, tolerance_of(judge.model)
    batches = [whole, *(part for part in parts if judge.objective.has_units(part))]
    if len(batches) < 3:
        return None

    def draw(seed: int) -> list[tuple[float, float]]:
        # Parts draw one after another, so that together they may draw what the batch does.
        return [judge(b, seed if place < 2 else None) for place, b in enumerate(batches)]

    rows = [draw(0)]
    wanted = repeats if judge.draws else 1
    while True:
        rows += [draw(seed) for seed in range(len(rows), wanted)]
        sums, units = np.moveaxis(np.array(rows), 2, 0)
        if not np.isfinite(sums).all() or (units <= 0).any():
            return None
        losses = (sums.sum(0) / units.sum(0)).tolist()
        scale = max(*map(abs, losses), 1e-12) * units[:, 0]
        excess = (sums[:, 0] - sums[:, 1:].sum(1)) / scale
        error = float(excess.std(ddof=1)) / len(rows) ** 0.5 if len(rows) > 1 else 0.0
        beyond = abs(float(excess.mean())) - tolerance
        differs = beyond > _ERRORS * error
        if differs or wanted < _DRAWS or wanted > _MOST_DRAWS or beyond < _SUSPECT * error:
            break
        wanted *= 4  # it is in doubt
    counts = float(units[:, 0].mean()), float(units[:, 1:].sum(1).mean())
    out = _Comparison(samples, counts, losses, float(excess.mean()), differs, tolerance)
    if out.recounts or not differs:
        return out
    first, *others = sums.mean(0).tolist() if own_step else losses
    alike = (1e-4 if tolerance == _TOLERANCE else tolerance) * abs(sum(others))
    if own_step and abs(first * len(others) - sum(others)) < alike:
        raise LossError(
            "step_fn: expected (loss·n, n), the sum of the loss over n units; the first value is the "
            f"same for a batch and for its parts, so it is a mean. To sum it, {STEP_ADVICE}"
        )
    if not own_step and abs(first - sum(others)) < alike:
        raise LossError(
            "loss_fn: expected the mean over the batch's units; the loss of a batch is the sum of the "
            'losses of its parts. Use reduction="mean".'
        )
    return out


def tolerance_of(model: Any) -> float:
    """By how much a loss may change, relative, by rounding: of weights in float32, or in shorter numbers."""
    kinds = {p.dtype for p in getattr(model, "parameters", tuple)() if p.is_floating_point()}
    return max([_TOLERANCE, *(_ROUNDED * torch.finfo(kind).eps for kind in kinds)])


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
    most = int(_MOST_FLOPS / max(cost(size), 1.0))
    repeats = _DRAWS if most >= 4 else _FEW_DRAWS
    most = max(most, 4 if 4 * cost(size) <= _DEAREST_FLOPS else 0)
    wanted = batch_size if isinstance(batch_size, int) else JUDGED_ON
    many = min(wanted, _MOST_SAMPLES, most, data.size or most) // 2 * 2
    few = min(_FEW_SAMPLES, many)
    if few < 4:
        return Extent()
    try:
        with rng.kept():
            rng.seed(0)
            judge = Evaluator(perturbed(spec.build(size).eval()), objective)
            samples = data.spread(max(many, 3 * few))
            cuts = [(samples[:many], many // 2), (samples[:few], 2), (samples[-few:], 2)]
            made = [_made(data, *cut) for cut in cuts]
            (once, n), (twice, _) = (judge(made[1][1]) for _ in range(2))
            if abs(twice - once) > tolerance_of(judge.model) * abs(once):
                changed = in_words("changing_loss", once=once / n, again=twice / n)
                return Extent(draws=bool(judge.draws), findings=(changed,))
            compared = [compare(judge, *batch, repeats) for batch in made]
            known = [c for c in compared if c is not None]
            adds_up = not any(c.differs or c.recounts for c in known)
            divisible = _divides(judge, data, made, repeats, adds_up)
            told = _step_units(objective, made, compared)
            told += _ignored(judge, made[0][1])
            if repeats == _DRAWS:
                told += _below_zero(judge, made[1][1])
    except LossError:
        raise
    except Exception:  # the user's code may raise anything
        return Extent()
    if adds_up:
        again = judge.draws and held_out.size is None
        return Extent(JUDGED_ON if again else None, divisible, bool(judge.draws), told)
    judged_on = min(wanted, held_out.size or wanted)
    finding = _finding(known, judged_on, divisible, isinstance(batch_size, int))
    return Extent(judged_on, divisible, bool(judge.draws), (finding, *told))


def perturbed(model: Any) -> Any:
    """The model with noise on all its weights."""
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

    whole, drawn = collate(samples), rng.draw()
    rng.seed(0)
    if drawn != rng.draw():  # it masks at random: parts would have other masks
        return len(samples), whole, list(data.cut(whole, part))
    starts = range(0, len(samples), part)
    return len(samples), whole, [collate(samples[i : i + part]) for i in starts]


def _divides(
    judge: Evaluator,
    data: DataSpec,
    made: Sequence[tuple[int, Any, Any]],
    repeats: int,
    adds_up: bool,
) -> bool:
    """Whether batches that are collated can be cut, as training does it, without changing their loss.

    Those that cannot be cut at all are passed whole, and ``adds_up`` tells of them.
    """
    try:
        cut = [compare(judge, n, b, list(data.cut(b, n // 2)), repeats) for n, b, _ in made]
    except LossError:
        raise
    except Exception:  # of the user's model, which knows no such parts
        return adds_up
    return not any(c is not None and c.differs for c in cut)


def _step_units(
    objective: Objective,
    made: Sequence[tuple[int, Any, Any]],
    compared: Sequence[_Comparison | None],
) -> tuple[Diagnostic, ...]:
    """Whether a step of the user's own counts other units than planning does."""
    for (n, batch, _), found in zip(made, compared, strict=True):
        planned = float(objective.count(batch))
        if found is not None and abs(found.units[0] - planned) > 1e-3 * planned:
            return (in_words("units_of_step", n=n, units=found.units[0], planned=planned),)
    return ()


def _ignored(judge: Evaluator, batch: Any) -> tuple[Diagnostic, ...]:
    """Whether D counts targets of a value that the loss leaves out: of them alone it is NaN or zero."""
    objective = judge.objective
    if objective.count_fn is not None or not objective.has_classes(batch):
        return ()
    targets = objective.targets(batch)
    own = targets[counted(targets)]
    for value in {int(own.min()), int(own.max())}:
        loss = 1.0
        with suppress(Exception):  # a loss may refuse targets that are all alike
            loss, _ = judge(objective.with_targets(batch, value))
        if loss == 0 or math.isnan(loss):
            share = float((own == value).double().mean())
            return (in_words("ignored_targets", value=value, share=share),)
    return ()


def _below_zero(judge: Evaluator, batch: Any) -> tuple[Diagnostic, ...]:
    """Whether the loss of one batch falls below zero when the model is fitted to it."""
    if judge.objective.has_classes(batch):  # whose losses are entropies
        return ()
    optimizer = torch.optim.Adam((p for p in judge.model.parameters() if p.requires_grad), lr=_RATE)
    tolerance = tolerance_of(judge.model)
    for _ in range(_DESCENT):
        total, units = judge.objective(judge.model, batch)
        loss = float(total.detach()) / float(units)
        if not loss >= -tolerance:
            break
        optimizer.zero_grad()
        (total / units).backward()
        optimizer.step()
    falls = -math.inf < loss < -tolerance
    return (in_words("negative_loss", loss=loss),) if falls else ()


def _finding(
    known: Sequence[_Comparison], judged_on: int, divisible: bool, one_batch: bool
) -> Diagnostic:
    """The clearest difference, in words."""
    judged = f"All runs are judged on held-out batches of {judged_on} samples"
    judged += "." if divisible else ", and no batch is split into microbatches."
    apart = [c for c in known if c.differs]
    if recounted := [c for c in known if c.recounts]:
        c = max(recounted, key=lambda c: abs(c.units[0] / c.units[1] - 1))
        return in_words("units_of_batches", c=c, judged=judged)
    if all(c.outside for c in apart):
        c = max(apart, key=lambda c: c.samples)
        parts = " and ".join(f"{loss:.4g}" for loss in c.losses[1:3])
        severity: Severity = "note" if one_batch else "warning"
        return in_words(
            "whole_batch_loss", severity, not one_batch, c=c, parts=parts, judged=judged
        )
    c = max(apart, key=lambda c: abs(c.excess))
    side = "above" if c.excess > 0 else "below"
    return in_words("loss_no_mean", c=c, excess=abs(c.excess), side=side, judged=judged)
