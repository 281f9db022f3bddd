"""Does one learning rate serve all widths of the user's model?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Literal

from flops_fit import rng
from flops_fit.data.spec import DataSpec, check_dataset_type, split_data
from flops_fit.errors import InputError, explains_names, is_whole
from flops_fit.hparams import HParams
from flops_fit.lazy import torch
from flops_fit.model.spec import ModelSpec, Size
from flops_fit.mup import Mup, Parametrization, ParametrizationLike
from flops_fit.mup.coordinate_check import CoordinateCheck, Movement, fit_slopes, movement, outputs
from flops_fit.mup.parametrization import parametrize, resolve_mup
from flops_fit.objective import Objective
from flops_fit.plan.counting import FlopsCounter
from flops_fit.plan.planner import EXAMPLE_SAMPLES
from flops_fit.plan.sweep_plan import SweepPlan
from flops_fit.records import Diagnostic
from flops_fit.text import error_line
from flops_fit.train.config import resolve_device
from flops_fit.train.optimizer import MakeOptimizer, make_optimizer
from flops_fit.train.step import Stepper
from flops_fit.train.trainer import Trainer

_STEPS, _SEEDS = 8, 3
_MOST_SAMPLES, _FEWEST_SAMPLES = 8, 2  # BatchNorm refuses a single one
_FLOPS = 5e10  # what a check may cost: some seconds of a CPU
_FLOPS_PER_PARAMETER = 100.0  # of a step of AdamW, by the time that it takes
_DEVICE_FLOPS = 1e14  # on a GPU
_FEWEST, _MOST = 3, 4  # widths
_DOUBLINGS = 6  # the widest is 32 times the base
_LARGEST = 5e7  # parameters of a model that is trained only to be checked
_NARROW = 16  # below, a few outputs of a layer say little of many


@explains_names({})
def coordinate_check(
    model_cls: Callable[..., Any],
    model_size_param: str | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    dataset: Any = None,
    loss_fn: Callable[..., Any] | None = None,
    *,
    sizes: Sequence[Size] | None = None,
    lr: float = 0.01,
    parametrization: ParametrizationLike = "mup",
    steps: int = _STEPS,
    seeds: int = _SEEDS,
    samples: int = _MOST_SAMPLES,
    seed: int = 0,
    count_fn: Callable[[Any], int] | None = None,
    step_fn: Callable[..., Any] | None = None,
    optimizer: MakeOptimizer | type[torch.optim.Optimizer] | None = None,
    device: str = "cpu",
) -> CoordinateCheck:
    """Does one learning rate serve all widths? A few steps at each, and what every module computes.

    If so, the root mean square of the change of every layer's activations is ∝ width^0 (Yang et al.
    2022, arXiv:2203.03466, appendix D.1). That exponent is measured for each kind of module. The result
    prints as a table; ``passed`` and ``reason`` are its verdict. InputError or InputTypeError where an
    argument cannot be used, or fewer than three widths can be had.

    Parameters
    ----------
    model_cls, model_size_param, model_kwargs, dataset, loss_fn, count_fn, step_fn, optimizer
        As of :func:`find_optimal`.
    sizes
        Three or more, the first the base; by default the base of ``parametrization`` and its doubles,
        as many as take some seconds.
    lr
        The learning rate at the base, held for all steps.
    parametrization
        ``"mup"``, ``Mup(...)``, or ``"standard"`` to see how it is without.
    steps, seeds, samples, seed
        Steps of each training, trainings of each width (2 to 5), samples in the one batch that all use,
        the first seed.
    device
        A torch device.
    """
    mup = resolve_mup(parametrization)
    for name, value, low, high in (("steps", steps, 1, 1000), ("seeds", seeds, 2, 5)):
        if not is_whole(value) or not low <= value <= high:
            raise InputError(
                f"{name}: expected a whole number from {low} to {high}; got {value!r}."
            )
    if dataset is None:
        raise InputError("dataset: a check trains on real batches; got none. Give dataset=.")
    check_dataset_type(dataset)
    spec = ModelSpec(model_cls, model_size_param, {} if model_kwargs is None else model_kwargs)
    objective = Objective(loss_fn, count_fn, step_fn)
    data, _ = split_data(dataset)
    batch = data.first_batch(EXAMPLE_SAMPLES)
    options = mup or Mup()
    check = WidthCheck(spec, objective, device, optimizer, samples, steps, seeds, seed)
    if sizes is None:
        if options.base is None:
            raise InputError(
                "sizes: expected three sizes or more, or a base to double, as parametrization="
                "Mup(base=); got neither."
            )
        unit = objective.unit(batch, dataset)
        counter, per_sample = FlopsCounter.from_batch(spec, objective, "measured", batch, unit)
        check, sizes = check.affordable(
            options.base, (), lambda size: counter.per_unit(size) * per_sample
        )
    sizes = list(sizes)
    roles = parametrize(spec, objective, batch, sizes, options)
    if (widths := check.count_widths(roles, sizes)) < _FEWEST:
        raise InputError(
            f"sizes: expected three different widths or more; got {sizes}, which differ in {widths}."
        )
    check = replace(check, device=resolve_device(device))
    return check.run(data, sizes, roles, HParams(lr=lr, batch_units=1), scaled=mup is not None)


@dataclass(frozen=True)
class WidthCheck:
    """A coordinate check of a model: what it trains, where, on how many samples and how often."""

    spec: ModelSpec
    objective: Objective
    device: str
    optimizer: MakeOptimizer | type[torch.optim.Optimizer] | None = None
    samples: int = _MOST_SAMPLES
    steps: int = _STEPS
    seeds: int = _SEEDS
    seed: int = 0

    def run(
        self,
        data: DataSpec,
        sizes: Sequence[Size],
        roles: Parametrization,
        hparams: HParams,
        scaled: bool = True,
    ) -> CoordinateCheck:
        """Steps on one batch of the data at each size, at the constant rate of ``hparams``."""
        n, device, objective = self.samples, self.device, self.objective
        batch, scale = data.first_batch(n), roles if scaled else None
        widths: list[float] = []
        runs: list[list[Movement]] = []
        with rng.kept(device), ExitStack() as stack:
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(1)  # synchronising threads takes longer than models this small
            for size in sizes:
                runs.append([])
                for number in range(self.seeds):
                    rng.seed(self.seed + number, device=device)
                    model: Any = self.spec.build(size)
                    if scaled:
                        roles.apply(model)
                    model = model.to(device).train()
                    optimizer = make_optimizer(model, hparams, self.optimizer, None, scale)
                    step = Stepper(model, objective, optimizer, hparams.clip, n, n, device)
                    before = outputs(model, objective, batch, device)
                    for _ in range(self.steps):
                        step(batch)
                    after = outputs(model, objective, batch, device)
                    runs[-1].append(movement(model, before, after))
                widths.append(roles.width(model))
        coordinates, name = fit_slopes(widths, runs), "mup" if scaled else "standard"
        return CoordinateCheck(
            tuple(sizes), tuple(widths), coordinates, self.steps, self.seeds, hparams.lr, name
        )

    def affordable(
        self, base: Size, planned: Sequence[Size], cost: Callable[[Size], float]
    ) -> tuple[WidthCheck, list[Size]]:
        """The check, with fewer samples if need be, and the widest sizes that take some seconds.

        ``cost`` is the training FLOPs of one sample at a size.
        """
        most = _FLOPS if self.device.partition(":")[0] == "cpu" else _DEVICE_FLOPS
        samples = self.samples
        while samples >= _FEWEST_SAMPLES:
            for below in (False, True):
                candidates = self._candidates(base, planned, below)
                chosen = self._within(most / (self.steps * self.seeds), samples, candidates, cost)
                if len(chosen) >= _FEWEST:
                    return replace(self, samples=samples), chosen
            samples //= 2
        raise InputError(
            f"sizes: fewer than {_FEWEST} widths around {base!r} can be trained {self.steps} steps "
            f"within {most:.2g} FLOPs and {_LARGEST:.0e} parameters. Give sizes=, three or more."
        )

    def _within(
        self, most: float, samples: int, sizes: Sequence[Size], cost: Callable[[Size], float]
    ) -> list[Size]:
        """The last few sizes of which one step each costs at most so much together."""
        chosen: list[tuple[Size, float]] = []
        for size in sizes:
            if (counted := self.spec.count(size)) is None:
                continue
            if counted.total > _LARGEST:
                break
            step = samples * cost(size) + _FLOPS_PER_PARAMETER * counted.total
            latest = [*chosen, (size, step)][-_MOST:]
            if sum(flops for _, flops in latest) > most:
                break
            chosen = latest
            if 2 * step > most:  # the next is twice as wide, costs more, and need not be built
                break
        return [size for size, _ in chosen]

    def _candidates(self, base: Size, planned: Sequence[Size], below: bool) -> Sequence[Size]:
        """The doubles of the base, from its own size on or from ``below`` it; or what is planned."""
        if not isinstance(base, int) or self.spec.size_param is None:
            return sorted(planned, key=lambda s: self.spec.require(s).total)
        first = 0
        while below and base % 2 ** (first + 1) == 0 and base >> first + 1 >= _NARROW:
            first += 1
        return [(base >> first) * 2**k for k in range(_DOUBLINGS + first)]

    def count_widths(self, roles: Parametrization, sizes: Sequence[Size]) -> int:
        """How many widths there are among sizes: those that differ in depth alone have one."""
        return len({round(roles.width(self.spec.build_meta(size)), 6) for size in sizes})


def smallest(plan: SweepPlan) -> Size:
    """The size with the fewest parameters."""
    size: Size = min(plan.experiments, key=lambda e: e.params.total).size
    return size


def with_check(plan: SweepPlan, trainer: Trainer, roles: Parametrization) -> SweepPlan:
    """The plan with the verdict of a coordinate check on the data, which takes some seconds."""
    planner = plan.require_planner("plan")
    factory, config = planner.factory, trainer.config
    sizes = list({repr(e.size): e.size for e in plan.experiments}.values())
    base = smallest(plan) if config.mup is None or config.mup.base is None else config.mup.base
    check = WidthCheck(trainer.model, trainer.objective, trainer.device, config.optimizer)
    action = ""
    try:
        check, chosen = check.affordable(
            base, sizes, lambda size: factory.counter.per_unit(size) * factory.units_per_sample
        )
        if check.count_widths(roles, chosen) < len(chosen):
            raise InputError("the sizes do not differ in width.")
        hparams = min(plan.experiments, key=lambda e: e.flops).hparams
        result = check.run(trainer.data, chosen, roles, hparams)
    except InputError as error:
        message = f"The coordinate check was not made: {error}"
    except Exception as error:  # the user's model may refuse a width in any way
        message = f"The coordinate check could not be made: {error_line(error)}."
    else:
        plan = replace(plan, planner=replace(planner, coordinates=result))
        message = f"Coordinate check at the rate {result.lr:.3g}: {result.reason}"
        if result.verdict == "failed":
            start = "Mup(init=True) where the output layer does not begin at zero, or "
            action = f'{"" if roles.init else start}tune="per-size"'
    severity: Literal["warning", "note"] = "warning" if action else "note"
    finding = Diagnostic("coordinates", severity, message, action)
    return replace(plan, diagnostics=(*plan.diagnostics, finding))
