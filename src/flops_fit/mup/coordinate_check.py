"""Do activations move alike at every width? A few training steps at each, and the verdict."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from flops_fit.batches import tensors_of, to_device
from flops_fit.lazy import nn, torch
from flops_fit.objective import Objective
from flops_fit.text import render, values_table

# Slopes that pass. The bundled GPT and ViT at widths 16 to 256 and rates 0.001 to 0.03 have -0.26 to
# +0.12 in μP and a steepest one of +0.56 to +1.8 without. The lower bound is wider: noise in an
# update adds up like the square root of the width, and fades beside what is common to it.
BAND = (-0.35, 0.25)
_T90 = {2: 6.31, 3: 2.92, 4: 2.35, 5: 2.13}  # Student's t at 90 %, two-sided, by number of seeds
_WHOLE = "(whole model)"
_MIN_CHANGE = 1e-12  # has a logarithm
_ROUNDING = 1e-6  # smaller changes, as a share of an activation, are rounding


@dataclass(frozen=True)
class Coordinate:
    """How the output of one kind of module (numbers in ``name`` replaced) moves in training, by width.

    ``change`` is the root mean square of the change since step 0 (the geometric mean over seeds), ``size``
    that of the output at the last step, ``slope`` that of ln(change) against ln(width) with its standard
    error ``slope_se`` over seeds. What does not move at all is not part of the verdict.
    """

    name: str
    change: tuple[float, ...]
    size: tuple[float, ...]
    slope: float
    slope_se: float
    moves: bool = True


@dataclass(frozen=True)
class CoordinateCheck:
    """Whether activations move alike at every width; prints as a table.

    Under a parametrization whose rates transfer, a few steps at one learning rate change every
    activation by an amount that does not depend on the width (Yang et al. 2022, arXiv:2203.03466,
    appendix D.1): ln(change) against ln(width) has the slope 0. Slopes within ``band`` pass.

    ``widths`` say how many times wider than the base each of ``sizes`` is; ``coordinates`` has one entry
    for each kind of module. It was trained for ``steps`` at the rate ``lr``, with ``seeds`` seeds.
    """

    sizes: tuple[Any, ...]
    widths: tuple[float, ...]
    coordinates: tuple[Coordinate, ...]
    steps: int
    seeds: int
    lr: float
    parametrization: str
    band: tuple[float, float] = BAND

    @property
    def _moving(self) -> list[Coordinate]:
        return [c for c in self.coordinates if c.moves]

    @property
    def outside(self) -> tuple[Coordinate, ...]:
        """Those whose slope lies outside the band by more than its 90 % interval, the worst first."""
        ordered = sorted(self._moving, key=self._excess, reverse=True)
        return tuple(c for c in ordered if not self._excess(c) <= _T90[self.seeds] * c.slope_se)

    def _excess(self, coordinate: Coordinate) -> float:
        """How far a slope lies beyond the band, negative within it."""
        low, high = self.band
        beyond = max(coordinate.slope - high, low - coordinate.slope)
        return beyond if math.isfinite(beyond) else math.inf

    @property
    def verdict(self) -> Literal["passed", "failed", "unclear"]:
        """``"unclear"`` if a slope is beyond the band but its interval is not, or if nothing moves."""
        if self.outside:
            return "failed"
        inside = all(self._excess(c) <= 0 for c in self._moving)
        return "passed" if self._moving and inside else "unclear"

    @property
    def passed(self) -> bool:
        """Whether every slope lies in the band."""
        return self.verdict == "passed"

    @property
    def reason(self) -> str:
        """The verdict in a sentence."""
        moving = self._moving
        if not moving:
            return f"no activation moved in {self.steps} steps at the rate {self.lr:g}."
        worst = max(moving, key=self._excess)
        if not math.isfinite(worst.slope):
            return f"training diverged: {worst.name} is not finite at the rate {self.lr:g}."
        low, high = self.band
        over = f"over a factor {self.widths[-1] / self.widths[0]:.3g} of width, {worst.name} moves"
        half = _T90[self.seeds] * worst.slope_se
        power = f"like width^{worst.slope:+.2f} (± {half:.2f}; {low:g} to {high:+g} passes)"
        if self.verdict == "passed":
            return f"one learning rate serves all widths: {over} least evenly, {power}."
        if self.verdict == "unclear":
            return (
                "it is not clear whether one learning rate serves all widths: "
                f"{over} {power}. Give more seeds."
            )
        return (
            f"one learning rate does not serve all widths: {over} "
            f"{'faster' if worst.slope > 0 else 'slower'} the wider the model is, {power}; "
            f"{len(self.outside)} of {len(moving)} kinds of modules are outside."
        )

    def __rich__(self) -> Any:
        title = f"{self.parametrization}, {self.steps} steps at {self.lr:g}, {self.seeds} seeds"
        sizes = (s.values() if isinstance(s, Mapping) else [s] for s in self.sizes)
        named = ["×".join(map(str, values)) for values in sizes]
        columns = ("output of", *named, "slope", "±", "")
        table = values_table(f"Change of activations: {title}", columns)
        outside = {c.name for c in self.outside}
        for c in self.coordinates:
            verdict = "outside" if c.name in outside else "" if c.moves else "still"
            half = _T90[self.seeds] * c.slope_se
            row = [f"{value:.3g}" for value in c.change]
            table.add_row(c.name, *row, f"{c.slope:+.2f}", f"{half:.2f}", verdict)
        return table

    def __str__(self) -> str:
        return f"{render(self)}\n{self.verdict}: {self.reason}"


Outputs = Mapping[str, Sequence["torch.Tensor"]]  # by name of the module
Movement = dict[str, tuple[float, float]]  # by kind of module: change and size of the output


def outputs(model: nn.Module, objective: Objective, batch: Any, device: str) -> Outputs:
    """What every module computes for one batch, in evaluation, by the module's name."""
    computed: dict[str, list[torch.Tensor]] = defaultdict(list)
    names = {module: name for name, module in model.named_modules()}

    def hook(module: nn.Module, args: Any, output: Any) -> None:
        kept = [t.detach().double().clone() for t in tensors_of(output) if t.is_floating_point()]
        computed[names[module]] += kept

    handles = [module.register_forward_hook(hook) for module in names]
    model.eval()
    try:
        with torch.no_grad():
            objective(model, to_device(batch, device))
    finally:
        model.train()
        for handle in handles:
            handle.remove()
    return computed


def _kinds(model: nn.Module) -> dict[str, str]:
    """The kind of each module by its name: the members of a ModuleList are of one."""
    kinds = {"": ""}
    modules = dict(model.named_modules())
    for name in list(modules)[1:]:
        head, _, last = name.rpartition(".")
        part = "*" if isinstance(modules.get(head), nn.ModuleList) else last
        kinds[name] = f"{kinds.get(head, head)}.{part}".lstrip(".")
    return {name: kind or _WHOLE for name, kind in kinds.items()}


def movement(model: nn.Module, before: Outputs, after: Outputs) -> Movement:
    """Root mean squares of the change and of the output, by kind of module."""
    kinds = _kinds(model)
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for name, tensors in before.items():
        for old, new in zip(tensors, after.get(name, ()), strict=False):
            if old.shape == new.shape:
                total = sums[kinds[name]]
                total[0] += float((new - old).square().sum())
                total[1] += float(new.square().sum())
                total[2] += new.numel()
    return {k: (math.sqrt(a / n), math.sqrt(b / n)) for k, (a, b, n) in sums.items() if n}


def fit_slopes(
    widths: Sequence[float], runs: Sequence[Sequence[Movement]]
) -> tuple[Coordinate, ...]:
    """Each kind of module over the widths, from the movements with some seeds at each width."""
    x = np.log(widths)
    x = x - x.mean()
    every = [run for of_size in runs for run in of_size]
    out = []
    for name in (n for n in every[0] if all(n in run for run in every)):
        values = np.array([[run[name] for run in of_size] for of_size in runs])  # widths, seeds, 2
        change, size = values[..., 0], values[..., 1]
        logs = np.log(np.maximum(change, _MIN_CHANGE))
        slopes = x @ logs / (x @ x)
        changes, sizes = np.exp(logs.mean(axis=1)).tolist(), size.mean(axis=1).tolist()
        error = float(slopes.std(ddof=1) / math.sqrt(len(slopes)))
        moves = not np.max(change / np.maximum(size, _MIN_CHANGE)) <= _ROUNDING
        out.append(
            Coordinate(name, tuple(changes), tuple(sizes), float(slopes.mean()), error, moves)
        )
    return tuple(out)
