"""The exact experiment of a budget and a size, and the trunks that runs of one size share."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from flops_fit.errors import InputError, PlanError
from flops_fit.fingerprint import digest, reference
from flops_fit.flops.functions import FlopsFunction
from flops_fit.hparams import check_warmup
from flops_fit.model.spec import ModelSpec, Size
from flops_fit.plan.counting import FlopsCounter
from flops_fit.recipes.published import Recipe
from flops_fit.records import Experiment, canonical_json, trunk_hparams, trunk_of
from flops_fit.text import format_count

ROUNDING = 0.01  # largest share of a budget that whole steps may cost


class UnmetBudgetError(PlanError):
    """Whole steps of a run miss its budget by more than 1 %."""


@dataclass(frozen=True)
class ExperimentFactory:
    """Makes the exact experiment of a budget and a size.

    ``batch_size`` is in samples, ``"auto"`` for the recipe's. ``samples`` is the size of the
    training set where it is known. ``conditions`` are the fingerprints of all else that decides
    the outcome: loss, data, how the run is carried out. With ``branch`` neither batch nor seed
    depends on the budget, so that runs of one size can share a trunk.
    """

    spec: ModelSpec
    counter: FlopsCounter
    recipe: Recipe
    units_per_sample: float
    batch_size: int | str
    samples: int | None
    seed: int
    conditions: str
    branch: bool = False
    _fingerprints: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        batch = self.batch_size
        if self.samples is not None and isinstance(batch, int) and self.samples < batch:
            raise InputError(
                f"dataset: expected at least one batch of {batch} samples to train on; it has "
                f"{self.samples}. Give more data or a smaller batch_size."
            )

    def make(self, budget: float, size: Size, repeat: int = 0) -> Experiment:
        """The experiment.

        Raises
        ------
        UnmetBudgetError
            Whole steps cannot meet the budget.
        """
        params = self.spec.require(size)
        per_unit = self.counter.per_unit(size)
        units = budget / per_unit
        hparams = self.recipe(params, units, self.counter.unit)
        batch, steps = self._whole_steps(units, hparams.batch_units)
        spent = per_unit * batch * steps * self.units_per_sample
        if steps < 1 or abs(spent / budget - 1) > ROUNDING:
            raise UnmetBudgetError(
                f"{self.spec.size_param or 'size'}={size} at {budget:.3g} FLOPs: "
                f"{units:.3g} {self.counter.unit} are {units / (batch * self.units_per_sample):.3g} "
                f"steps of {batch} samples, and whole steps miss the budget by more than 1 %"
            )
        check_warmup(
            hparams, batch * steps * self.units_per_sample, f"size={size} at {budget:.3g} FLOPs"
        )
        kwargs = {k: _plain(v) for k, v in self.spec.kwargs.items()}
        return Experiment(
            model=self.spec.reference,
            model_kwargs=kwargs,
            size=_plain(size),
            params=params,
            budget=budget,
            tokens=round(batch * steps * self.units_per_sample),
            steps=steps,
            batch_size=batch,
            units_per_sample=self.units_per_sample,
            unit=self.counter.unit,
            flops_per_unit=per_unit,
            flops_per_unit_6nd=self.counter.per_unit_6nd(size),
            hparams=hparams,
            seed=_derived_seed(self.seed, None if self.branch else budget, _plain(size), repeat),
            repeat=repeat,
            fingerprint=digest([self._fingerprint(size), self.conditions]),
            epochs=None if self.samples is None else batch * steps / self.samples,
        )

    def flops(self) -> FlopsFunction:
        """F(N) at any size, counted when it is needed; for models with a size parameter."""
        if self.spec.size_param is None:
            self.spec.arguments(0)  # raises, with what to give
        smallest = self.spec.nearest(1.0)
        return self.counter.function([] if smallest is None else [smallest[0]])

    def _fingerprint(self, size: Size) -> str:
        key = repr(size)
        if key not in self._fingerprints:
            self._fingerprints[key] = self.spec.fingerprint(size)
        return self._fingerprints[key]

    def _whole_steps(self, units: float, batch_units: float) -> tuple[int, int]:
        """Batch size in samples and number of steps; a smaller batch where that makes whole steps."""
        samples = units / self.units_per_sample
        if isinstance(self.batch_size, int):
            return self.batch_size, max(round(samples / self.batch_size), 0)
        batch = max(1, round(batch_units / self.units_per_sample))
        if self.samples is not None:
            batch = min(batch, self.samples)
        if self.branch:
            return batch, round(samples / batch)
        choices = range(batch, max(1, math.floor(0.8 * batch)) - 1, -1)

        def miss(batch: int) -> float:
            return abs(round(samples / batch) * batch / samples - 1)

        exact = next((b for b in choices if miss(b) <= ROUNDING / 4), None)
        best = exact if exact is not None else min(choices, key=miss)
        return best, round(samples / best)


def make_experiments(
    factory: ExperimentFactory, sizes: Mapping[float, Sequence[Size]], repeats: int
) -> tuple[list[Experiment], list[str]]:
    """Every run of the sizes at each budget, and why others are left out.

    Raises
    ------
    PlanError
        A budget has no run.
    """
    experiments: list[Experiment] = []
    dropped: list[str] = []
    for budget, chosen in sizes.items():
        before = len(experiments)
        for size in chosen:
            try:
                experiments += [factory.make(budget, size, repeat) for repeat in range(repeats)]
            except UnmetBudgetError as error:
                dropped.append(str(error))
        if len(experiments) == before:
            raise PlanError(
                f"compute_budgets: no run fits a budget of {budget:g} FLOPs: "
                f"{dropped[-1] if dropped else 'no size is near its optimum'}. "
                "Give a larger budget, smaller sizes or a smaller batch_size."
            )
    return experiments, dropped


def _derived_seed(seed: int, budget: float | None, size: Any, repeat: int) -> int:
    """A seed of its own for each run: with one seed for all, noise would correlate by size.

    Without a budget it is the seed of a trunk, whose branches see the same batches.
    """
    text = canonical_json([seed, budget, size, repeat])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")


def _plain(value: Any) -> Any:
    """A value that JSON gives back as it was."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    return reference(value)


def with_trunks(experiments: Sequence[Experiment]) -> list[Experiment]:
    """The experiments, each with its trunk.

    Raises
    ------
    InputError
        The schedule is not ``"wsd"``, or runs of one size differ in more than their length.
    """
    for experiment in experiments:
        _check_schedule(experiment, experiments)
    groups: dict[str, list[Experiment]] = defaultdict(list)
    for experiment in experiments:
        groups[canonical_json([experiment.size, experiment.repeat])].append(experiment)
    for group in groups.values():
        _check_alike(group, experiments)
    return [replace(e, trunk=trunk_of(e)) for e in experiments]


def _check_schedule(experiment: Experiment, experiments: Sequence[Experiment]) -> None:
    hparams = experiment.hparams
    if hparams.schedule != "wsd":
        raise InputError(
            "branch: expected the schedule 'wsd', whose rate before its cool-down does not depend on "
            f"the run's length; got {hparams.schedule!r} for {experiment.label}. {_advice(experiments)}"
        )
    if hparams.warmup_units is None and hparams.warmup > 0:
        raise InputError(
            "branch: expected a warmup of the same units in runs of any length; got a share of "
            f"{hparams.warmup:g} of each run. {_advice(experiments)}"
        )


def _check_alike(group: Sequence[Experiment], experiments: Sequence[Experiment]) -> None:
    """Refuse runs of one size that could not be branches of one run, naming what differs."""
    first = group[0]
    for other in group[1:]:
        pairs = {"batch_size": (first.batch_size, other.batch_size)}
        before, after = trunk_hparams(first.hparams), trunk_hparams(other.hparams)
        pairs |= {name: (before[name], after[name]) for name in before}
        differing = [f"{name} ({a!r} and {b!r})" for name, (a, b) in pairs.items() if a != b]
        if differing:
            raise InputError(
                f"branch: expected runs of one size to differ in their length alone; {first.label} "
                f"and {other.label} differ in {', '.join(differing)}. {_advice(experiments)}"
            )


def _advice(experiments: Sequence[Experiment]) -> str:
    """Hyper-parameters that can be branched, taken from the shortest run."""
    short = min(experiments, key=lambda e: e.tokens)
    batch = max(1, round(short.batch_size * short.units_per_sample))
    warmup = max(1, round(0.1 * short.tokens))
    values = f'{{"schedule": "wsd", "batch_units": {batch}, "warmup_units": {warmup}}}'
    return (
        f"Give hparams={values}, or a recipe that depends on the size alone; 0.1 of the shortest "
        f"run, of {format_count(short.tokens)} {short.unit}, are {warmup} of them."
    )
