"""The oracle that trains: sizes that the user's model has, and runs by the sweep's own way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flops_fit.design._pilot import pilot_budgets, pilot_grid
from flops_fit.design._points import Candidates
from flops_fit.errors import InputError, PlanError
from flops_fit.flops import FlopsFunction
from flops_fit.model import ModelSpec
from flops_fit.plan import RunMaker
from flops_fit.records import Experiment, Run

__all__ = ["Experimenter", "check_adaptive", "pilot_budgets_for", "pilot_sizes"]

Floats = NDArray[np.float64]


@dataclass
class Experimenter:
    """Makes each wanted run an exact :class:`~flops_fit.records.Experiment` and has it run.

    Attributes
    ----------
    maker
        The plan's: sizes, FLOPs, whole steps, seeds.
    flops
        F(N).
    carry_out
        From all experiments so far to their runs, in order; finished ones are not run again.
    sizes
        The sizes that may be used; by default whatever the model's constructor accepts.
    """

    maker: RunMaker
    flops: FlopsFunction
    carry_out: Callable[[Sequence[Experiment]], Sequence[Run]]
    sizes: Sequence[Any] | None = None
    experiments: list[Experiment] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    _known: dict[tuple[float, float], tuple[float, Any]] = field(default_factory=dict)
    _made: Counter[tuple[float, float]] = field(default_factory=Counter)

    def candidates(self, params: Floats, budget: Floats) -> Candidates:
        """The nearest sizes at each budget, for whole steps; those that cannot be are left out."""
        rows: dict[tuple[float, float], tuple[float, float]] = {}
        for n, C in zip(params.tolist(), budget.tolist(), strict=True):
            size = self._nearest(n)
            made = None if size is None else self.maker.make(C, size)
            if isinstance(made, Experiment):
                key = (float(made.params.total), float(made.tokens))
                self._known[key] = (C, size)
                rows[key] = (made.flops, C)
        N, D = (np.array([key[i] for key in rows]) for i in (0, 1))
        cost, tier = (np.array([row[i] for row in rows.values()]) for i in (0, 1))
        return Candidates(N, D, cost, tier)

    def run(self, chosen: Candidates) -> Sequence[float]:
        """The losses; NaN for a run that did not complete."""
        for pair in chosen.pairs():
            budget, size = self._known[pair]
            made = self.maker.make(budget, size, self._made[pair])
            assert isinstance(made, Experiment)
            self._made[pair] += 1
            self.experiments.append(made)
        self.runs = list(self.carry_out(self.experiments))
        return [
            run.loss if run.state == "completed" and run.loss is not None else float("nan")
            for run in self.runs[-len(chosen) :]
        ]

    def _nearest(self, params: float) -> Any:
        spec = self.maker.spec
        if self.sizes is None:
            found = spec.nearest(params)
            return None if found is None else found[0]
        away = [abs(np.log(spec.require(s).total / params)) for s in self.sizes]
        return self.sizes[int(np.argmin(away))]


def check_adaptive(sizes: Any, repeats: int, branch: bool) -> None:
    """Refuse what an adaptive design decides itself, or cannot do."""
    if isinstance(sizes, Mapping):
        raise InputError(
            "sizes: an adaptive design chooses sizes for each budget; expected a list of those that "
            "it may use, or none; got a dict of budgets."
        )
    if repeats != 1:
        raise InputError(
            f"repeats: an adaptive design repeats runs where that tells most; got {repeats!r}. "
            "Leave it out."
        )
    if branch:
        raise InputError(
            "branch: an adaptive design plans runs one by one, and trunks have to be planned "
            'together. Use design="grid" for branches.'
        )


def pilot_budgets_for(given: Sequence[float] | None, max_flops: float | None) -> Sequence[float]:
    """The pilot's budgets: as given, else three that take 1.5 % of ``max_flops``."""
    if given is not None:
        return given
    if isinstance(max_flops, bool) or not isinstance(max_flops, int | float) or not max_flops > 0:
        raise InputError(
            f"max_flops: an adaptive design needs what it may spend, a positive number of FLOPs; got "
            f"{max_flops!r}."
        )
    return pilot_budgets(max_flops)


def pilot_sizes(spec: ModelSpec, budgets: Sequence[float]) -> dict[float, list[Any]] | None:
    """By budget, the sizes of the pilot's runs that the model has."""
    if spec.size_param is None:
        return None
    found: dict[float, list[Any]] = {float(b): [] for b in budgets}
    for n, C in zip(*pilot_grid(budgets), strict=True):
        near = spec.nearest(float(n))
        if near is not None and near[0] not in found[float(C)]:
            found[float(C)].append(near[0])
    if not all(found.values()):
        least = min(b for b, sizes in found.items() if not sizes)
        raise PlanError(
            f"max_flops: the pilot's budget of {least:.3g} FLOPs suits no size of the model. Give "
            "more max_flops, or compute_budgets for the pilot."
        )
    return found
