"""The sizes at each budget, the exact experiment of each, and the trunks that runs of one size share."""

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from flops_fit.data.axes import DataAxes
from flops_fit.errors import InputError, InputTypeError, PlanError
from flops_fit.fingerprint import digest, reference
from flops_fit.flops.functions import FlopsFunction
from flops_fit.hparams import check_warmup
from flops_fit.model.spec import ModelSpec, Size
from flops_fit.plan.counting import FlopsCounter
from flops_fit.plan.designs import Layout, Sizes
from flops_fit.plan.lengths import MOST_READ
from flops_fit.recipes.published import Recipe
from flops_fit.records import Experiment, canonical_json, trunk_hparams, trunk_of
from flops_fit.text import format_count

_RECORDED: Any = (int, float, str, Mapping, list, tuple, np.generic, type(None))  # as sizes
_AXIS_DRAWS = 500  # of values of further axes, of which the least correlated is used
_TRIALS = 6  # of batches and steps, where a run's own samples decide its length
ROUNDING = 0.01  # largest share of a budget that whole steps may cost


class UnmetBudgetError(PlanError):
    """Whole steps of a run miss its budget by more than 1 %."""


@dataclass(frozen=True)
class ExperimentFactory:
    """Makes the exact experiment of a budget and a size.

    ``samples`` and ``pass_length`` are those of one pass of the data, if known, the latter also of a stream,
    and of the smallest data set where ``data_axes`` has several; ``conditions`` is a fingerprint. With
    ``branch`` neither batch nor seed depends on the budget.
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
    pass_length: int | None = None
    data_axes: DataAxes | None = None
    _fingerprints: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        batch = self.batch_size
        if self.samples is not None and isinstance(batch, int) and self.samples < batch:
            raise InputError(
                f"dataset: expected at least one batch of {batch} samples to train on; it has "
                f"{self.samples}. Give more data or a smaller batch_size."
            )

    def make(self, budget: float, size: Size, repeat: int = 0, *, reads: bool = True) -> Experiment:
        """The experiment; raises :class:`UnmetBudgetError` where whole steps cannot meet the budget.

        Where samples differ it is exact for those that the run will read, or for all without ``reads``.
        """
        self.spec.given.setdefault(repr(_plain(size)), size)  # JSON has no tuples
        params = self.spec.require(size)
        per_unit = self.counter.per_unit(size)
        units = budget / per_unit
        hparams = self.recipe(params, units, self.counter.unit)
        # With one seed for all runs noise would correlate by size. Branches see the same batches.
        seeded = [self.seed, None if self.branch else budget, _plain(size), repeat]
        digested = hashlib.sha256(canonical_json(seeded).encode()).digest()
        seed = int.from_bytes(digested[:4], "little")
        per_sample, lengths = self.units_per_sample, self.counter.lengths
        batch, steps = self._whole_steps(units, hparams.batch_units, per_sample)
        tried: list[tuple[float, int, int, float, float]] = []
        while lengths is not None and steps and (reads or lengths.each is not None):
            # All runs of a trunk have one schedule up to their cool-downs, so one length of a step.
            read = math.ceil(MOST_READ / batch) if self.branch else steps
            per_sample, row = lengths.of_run(batch, read, seed)
            per_unit = self.counter.of_run(size, per_sample, row)
            miss = abs(per_unit * per_sample * batch * steps / budget - 1)
            tried.append((miss, batch, steps, per_sample, per_unit))
            # Padding depends on the batch, and with it the units of a sample may.
            if len(tried) < _TRIALS / 2 and not self.branch:
                batch, steps = self._whole_steps(budget / per_unit, hparams.batch_units, per_sample)
            else:
                steps = round(budget / (per_unit * per_sample * batch))
            done = miss <= ROUNDING / 4 or (batch, steps) == tried[-1][1:3]
            if done or not steps or len(tried) == _TRIALS:
                _, batch, steps, per_sample, per_unit = min(tried)
                break
        length = batch * steps * per_sample
        if steps < 1 or abs(per_unit * length / budget - 1) > ROUNDING:
            raise UnmetBudgetError(
                f"{self.spec.size_param or 'size'}={size} at {budget:.3g} FLOPs: {budget / per_unit:.3g} "
                f"{self.counter.unit} are {budget / per_unit / (batch * per_sample):.3g} steps of {batch} "
                "samples, and whole steps miss the budget by more than 1 %, as "
                f"{max(steps, 1)} cost {per_unit * max(steps, 1) * batch * per_sample:.4g} FLOPs"
            )
        check_warmup(hparams, length, f"size={size} at {budget:.3g} FLOPs")
        axes, passed = self.data_axes, self.pass_length
        passed = passed if axes is None else axes.of(size).count()
        key = repr(size)
        if key not in self._fingerprints:
            self._fingerprints[key] = self.spec.fingerprint(size)
        return Experiment(
            model=self.spec.reference,
            model_kwargs={k: _plain(v) for k, v in self.spec.kwargs.items()},
            size=_plain(size),
            params=params,
            budget=budget,
            tokens=round(length),
            steps=steps,
            batch_size=batch,
            units_per_sample=per_sample,
            unit=self.counter.unit,
            flops_per_unit=per_unit,
            flops_per_unit_6nd=self.counter.per_unit_6nd(size),
            hparams=hparams,
            seed=seed,
            repeat=repeat,
            fingerprint=digest([self._fingerprints[key], self.conditions]),
            epochs=None if passed is None else batch * steps / passed,
        )

    def flops(self, counter: FlopsCounter | None = None) -> FlopsFunction:
        """F(N) at any size, counted when it is needed; for models with a size parameter."""
        if self.spec.size_param is None:
            self.spec.arguments(0)  # raises, with what to give
        smallest = self.spec.nearest(1.0)
        counter = self.counter.roughly() if counter is None else counter
        return counter.function([] if smallest is None else [smallest[0]])

    def _whole_steps(self, units: float, batch_units: float, per_sample: float) -> tuple[int, int]:
        """Batch size in samples and number of steps; a smaller batch where that makes whole steps."""
        samples = units / per_sample
        if isinstance(self.batch_size, int):
            return self.batch_size, max(round(samples / self.batch_size), 0)
        batch = max(1, round(batch_units / per_sample))
        if self.samples is not None:
            batch = min(batch, self.samples)
        if self.branch:
            return batch, round(samples / batch)
        choices = range(batch, max(1, math.floor(0.8 * batch)) - 1, -1)

        def miss(batch: int) -> float:
            return abs(round(samples / batch) * batch / samples - 1)

        best = next((b for b in choices if miss(b) <= ROUNDING / 4), None) or min(choices, key=miss)
        return best, round(samples / best)


def grid_sizes(
    layout: Layout, spec: ModelSpec, budgets: Sequence[float], flops: FlopsFunction
) -> tuple[dict[float, list[Size]], list[str]]:
    """The sizes at each budget nearest to those of the layout, and which of these are left out."""
    centres = [layout.prior.optimum(budget, flops) for budget in budgets]
    ends = [(centre, centre) for centre in centres]
    if layout.design == "rectangular":
        ends = [(min(centres), max(centres))] * len(budgets)
    sizes: dict[float, list[Size]] = {}
    lost: list[str] = []
    for budget, (low, high), many in zip(budgets, ends, layout.sizes_per_budget, strict=True):
        spread = np.geomspace(low / layout.width, high * layout.width, many).tolist()
        chosen: dict[str, tuple[Size, float]] = {}
        for params in spread if many > 1 else [math.sqrt(low * high)]:
            near = spec.nearest(params)
            if near is not None and repr(near[0]) not in chosen:
                chosen[repr(near[0])] = near[0], params
                continue
            why = "the constructor accepts no size near it"
            if near is not None:
                used = format_count(chosen[repr(near[0])][1])
                why = f"the nearest size, {near[0]}, is already used for N = {used}"
            lost.append(f"N = {format_count(params)} at {budget:.3g} FLOPs: {why}")
        sizes[budget] = [size for size, _ in chosen.values()]
    return sizes, lost


def cross_axes(
    spec: ModelSpec, sizes: Mapping[float, Sequence[Size]], axes: Mapping[str, Sequence[Any]]
) -> tuple[dict[float, list[Size]], list[str]]:
    """Sizes of about the same N, as dicts with a value of each axis; and which are left out.

    Each budget has each value as often as it can; of many draws the one whose values correlate least with
    ln N, ln C and each other.
    """
    places = [(budget, spec.require(size).total) for budget, own in sizes.items() for size in own]
    logs = np.log(np.array(places))
    rng, parts = np.random.default_rng(0), [len(own) for own in sizes.values()]

    def drawn(count: int) -> list[int]:
        shifts = range(len(parts))
        each = [
            rng.permutation((np.arange(n) + b) % count) for n, b in zip(parts, shifts, strict=True)
        ]
        return [int(i) for own in each for i in own]

    def correlation(draw: Sequence[Sequence[int]]) -> float:
        columns = np.array([*draw, logs[:, 0], logs[:, 1] - logs[:, 0] / 2], dtype=float)
        columns = columns[np.std(columns, axis=1) > 0]
        off = np.corrcoef(columns) - np.eye(len(columns)) if len(columns) > 1 else np.zeros(1)
        return float(np.abs(off).max())

    draws = [[drawn(len(values)) for values in axes.values()] for _ in range(_AXIS_DRAWS)]
    best = min(draws, key=correlation)
    specs: dict[str, ModelSpec] = {}
    crossed: dict[float, list[Size]] = {budget: [] for budget in sizes}
    lost = []
    for (budget, params), *picked in zip(places, *best, strict=True):
        own = {name: axes[name][i] for name, i in zip(axes, picked, strict=True)}
        kwargs = {**spec.kwargs, **{k: v for k, v in own.items() if k not in spec.beside}}
        at = specs.setdefault(repr(kwargs), ModelSpec(spec.factory, spec.size_param, kwargs))
        near = at.nearest(params)
        size = None if near is None else {str(spec.size_param): near[0], **own}
        if size is None or size in crossed[budget]:
            lost.append(
                f"N = {format_count(params)} at {budget:.3g} FLOPs with {own}: no size of its own"
            )
        else:
            crossed[budget].append(size)
    return crossed, lost


def named_sizes(spec: ModelSpec, budgets: Sequence[float], sizes: Sizes) -> dict[float, list[Size]]:
    """The sizes that the user named, for each budget."""
    named = {}
    for budget in budgets:
        given: Any = sizes
        if isinstance(sizes, Mapping):
            if budget not in sizes:
                raise PlanError(f"sizes: no sizes for the budget {budget:g}; got {sorted(sizes)}.")
            given = sizes[budget]
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise InputTypeError(
                "sizes: expected a list of sizes, a list of dicts of arguments, or a dict from budget "
                f"to such a list; got {type(given).__name__}."
            )
        named[budget] = list(given)
        if not named[budget]:
            raise PlanError("sizes: expected at least one size; got none.")
        for size in named[budget]:
            for value in size.values() if isinstance(size, Mapping) else [size]:
                if not isinstance(value, _RECORDED):
                    kind = type(value).__name__
                    raise InputTypeError(
                        "sizes: expected numbers, words or dicts of arguments, which records can hold; got "
                        f"an object of {kind}. Give what differs between sizes, and make the object in a "
                        f'function of it: model_kwargs={{"config": lambda width: {kind}(width=width)}} with '
                        f'model_size_param="width", or model_cls=lambda width: Model({kind}(width=width)).'
                    )
            spec.require(size)
        known = [canonical_json(_plain(size)) for size in named[budget]]
        if twice := [size for i, size in enumerate(named[budget]) if known[i] in known[:i]]:
            raise PlanError(
                f"sizes: expected distinct sizes; {twice[0]!r} is given twice at {budget:g} FLOPs. To "
                "repeat runs, give design=Grid(repeats=2)."
            )
    if isinstance(sizes, Mapping) and (others := [b for b in sizes if b not in budgets]):
        raise PlanError(
            f"sizes: expected budgets among compute_budgets, {list(budgets)}; got {others} too. Plan "
            "these budgets, or leave their sizes out."
        )
    counts = {repr(s): spec.require(s).total for chosen in named.values() for s in chosen}
    if len(counts) > 1 and len(set(counts.values())) == 1:
        raise PlanError(
            f"sizes: expected models of different sizes; {spec.reference} has {min(counts.values()):,} "
            f"parameters at each of {', '.join(counts)}. Name the argument that its layers are sized by."
        )
    return named


def make_experiments(
    factory: ExperimentFactory, sizes: Mapping[float, Sequence[Size]], repeats: int
) -> tuple[list[Experiment], list[str]]:
    """Every run of the sizes at each budget, and why others are left out; a budget without any raises."""
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
    return with_trunks(experiments) if factory.branch else experiments, dropped


def _plain(value: Any) -> Any:
    """A value that JSON gives back as it was."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    return value if isinstance(value, int | float | str | None) else reference(value)


def with_trunks(experiments: Sequence[Experiment]) -> list[Experiment]:
    """The experiments, each with its trunk; refuses those that differ in more than their length."""
    groups: dict[str, list[Experiment]] = defaultdict(list)
    for experiment in experiments:
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
        groups[canonical_json([experiment.size, experiment.repeat])].append(experiment)
    for first, *others in groups.values():
        own = {"batch_size": first.batch_size, **trunk_hparams(first.hparams)}
        for other in others:
            its = {"batch_size": other.batch_size, **trunk_hparams(other.hparams)}
            differing = [f"{k} ({v!r} and {its[k]!r})" for k, v in own.items() if v != its[k]]
            if differing:
                raise InputError(
                    f"branch: expected runs of one size to differ in their length alone; {first.label} "
                    f"and {other.label} differ in {', '.join(differing)}. {_advice(experiments)}"
                )
    return [replace(e, trunk=trunk_of(e)) for e in experiments]


def branchable(experiments: Sequence[Experiment]) -> dict[str, Any]:
    """Hyper-parameters that can be branched, taken from the shortest run."""
    short = min(experiments, key=lambda e: e.tokens)
    batch = max(1, round(short.batch_size * short.units_per_sample))
    warmup = max(1, round(0.1 * short.tokens))
    return {"schedule": "wsd", "batch_units": batch, "warmup_units": warmup}


def _advice(experiments: Sequence[Experiment]) -> str:
    short, hparams = min(experiments, key=lambda e: e.tokens), branchable(experiments)
    return (
        f"Give hparams={json.dumps(hparams)}, or a recipe that depends on the size alone; 0.1 of the "
        f"shortest run, of {format_count(short.tokens)} {short.unit}, are {hparams['warmup_units']} of them."
    )
