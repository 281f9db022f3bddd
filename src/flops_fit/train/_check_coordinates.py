"""Do activations move alike at every width? A few steps at each, by the same code that trains."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from flops_fit.model import ModelSpec, Size
from flops_fit.objective import Objective, batch_length, map_tensors, to_device
from flops_fit.train._coordinates import Coordinate, CoordinateCheck
from flops_fit.train._generators import kept_generators, seed_generators
from flops_fit.train._optimizer import MakeOptimizer, make_optimizer
from flops_fit.train._parametrize import Parametrization
from flops_fit.train._step import Stepper

if TYPE_CHECKING:
    from torch.optim import Optimizer

__all__ = ["check_coordinates"]

_WHOLE = "(whole model)"
_TINY = 1e-12
_STILL = 1e-6  # changes below this share of an activation are rounding


def check_coordinates(
    spec: ModelSpec,
    batch: Any,
    objective: Objective,
    sizes: Sequence[Size],
    roles: Parametrization,
    hparams: Mapping[str, Any],
    *,
    scaled: bool,
    steps: int,
    seeds: int,
    seed: int = 0,
    device: str = "cpu",
    optimizer: MakeOptimizer | type[Optimizer] | None = None,
) -> CoordinateCheck:
    """Train a few steps at each size and seed, and compare what every module computes.

    Parameters
    ----------
    batch
        What is trained on, again and again, and what activations are read on: what a few steps on one
        batch teach is plain, so that it does not drown in noise at small widths.
    sizes
        Three or more.
    roles
        Tells the width of a size; scales rates and weights where ``scaled``.
    hparams
        As of ``HParams.to_dict``; the rate is held.
    steps, seeds
        How many of each; of seeds 2 to 5.
    """
    found = []
    samples = batch_length(batch)
    with kept_generators(device), _one_thread():
        for size in sizes:
            widths, runs = [], []
            for number in range(seeds):
                seed_generators(seed + number, device)
                model: Any = spec.build(size)
                if scaled:
                    roles.apply(model)
                model = model.to(device).train()
                widths.append(roles.width(model))
                stepper = Stepper(
                    model=model,
                    objective=objective,
                    optimizer=make_optimizer(model, hparams, optimizer, roles if scaled else None),
                    clip=float(hparams["clip"]),
                    samples=samples,
                    microbatch=samples,
                    device=device,
                )
                before = _outputs(model, objective, batch, device)
                for _ in range(steps):
                    stepper(batch)
                after = _outputs(model, objective, batch, device)
                runs.append(_changes(before, after, _kinds(model)))
            found.append((widths[0], runs))
    return CoordinateCheck(
        tuple(sizes),
        tuple(width for width, _ in found),
        _coordinates(found),
        steps,
        seeds,
        float(hparams["lr"]),
        "mup" if scaled else "standard",
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Operations of models so small take less time than threads take to meet."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _outputs(model: Any, objective: Objective, batch: Any, device: str) -> dict[str, list[Any]]:
    """What every module computes of one batch, in evaluation, by the module's name."""
    import torch

    seen: dict[str, list[Any]] = defaultdict(list)

    def keep(name: str) -> Callable[..., None]:
        def hook(module: Any, args: Any, output: Any) -> None:
            def add(tensor: Any) -> None:
                if tensor.is_floating_point():
                    seen[name].append(tensor.detach().double().clone())

            map_tensors(output, add)

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in model.named_modules()]
    model.eval()
    try:
        with torch.no_grad():
            objective(model, to_device(batch, device))
    finally:
        model.train()
        for handle in handles:
            handle.remove()
    return seen


def _kinds(model: Any) -> dict[str, str]:
    """The kind of each module by its name: the members of a ModuleList are of one."""
    from torch import nn

    kinds = {"": ""}
    modules = dict(model.named_modules())
    for name in modules:
        head, _, last = name.rpartition(".")
        if name:
            part = "*" if isinstance(modules.get(head), nn.ModuleList) else last
            kinds[name] = f"{kinds.get(head, head)}.{part}".lstrip(".")
    return {name: kind or _WHOLE for name, kind in kinds.items()}


def _changes(
    before: Mapping[str, Any], after: Mapping[str, Any], kinds: Mapping[str, str]
) -> dict[str, tuple[float, float]]:
    """Root mean squares of the change and of the output, by kind of module."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for name, tensors in before.items():
        for old, new in zip(tensors, after.get(name, ()), strict=False):
            if old.shape == new.shape:
                total = sums[kinds[name]]
                total[0] += float((new - old).square().sum())
                total[1] += float(new.square().sum())
                total[2] += new.numel()
    return {
        name: (math.sqrt(change / count), math.sqrt(size / count))
        for name, (change, size, count) in sums.items()
        if count
    }


def _coordinates(
    found: Sequence[tuple[float, list[dict[str, tuple[float, float]]]]],
) -> tuple[Coordinate, ...]:
    x = np.log([width for width, _ in found])
    x = x - x.mean()
    names = [n for n in found[0][1][0] if all(n in run for _, runs in found for run in runs)]
    out = []
    for name in names:
        values = np.array([[run[name] for run in runs] for _, runs in found])  # widths, seeds, 2
        change, size = values[..., 0], values[..., 1]
        logs = np.log(np.maximum(change, _TINY))
        slopes = x @ logs / (x @ x)
        out.append(
            Coordinate(
                name,
                tuple(float(v) for v in np.exp(logs.mean(axis=1))),
                tuple(float(v) for v in size.mean(axis=1)),
                float(slopes.mean()),
                float(slopes.std(ddof=1) / math.sqrt(len(slopes))),
                not np.max(change / np.maximum(size, _TINY)) <= _STILL,
            )
        )
    return tuple(out)
