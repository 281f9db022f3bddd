"""Hyper-parameters for a run of a given size and length: named, versioned, pure functions.

A recipe centres a choice, it does not replace tuning: published rules disagree by factors, and the
smallest and largest sizes of a sweep are the least well served. What a recipe chose for every run
stands in the plan before anything runs.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from flops_fit.errors import InputError, InputTypeError
from flops_fit.records import ParamCount

__all__ = ["RECIPES", "HParams", "Recipe", "learning_rate", "resolve_recipe"]

Schedule = Literal["cosine", "constant"]


@dataclass(frozen=True)
class HParams:
    """How one run is trained with AdamW.

    Attributes
    ----------
    lr
        Peak learning rate.
    batch_units
        Units in a batch, before rounding to whole samples.
    warmup
        Share of the run over which the learning rate rises from 0.
    schedule
        What follows the warmup: half a cosine down to 0 at the run's last unit, or constant.
    weight_decay
        Decoupled, on matrices only: not on norms, biases and embeddings.
    clip
        Largest norm of the whole gradient.
    """

    lr: float
    batch_units: float
    warmup: float = 0.1
    schedule: Schedule = "cosine"
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    clip: float = 1.0
    recipe: str = "custom"

    def __post_init__(self) -> None:
        for name in ("lr", "batch_units", "clip"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
                raise InputError(f"hparams: expected a positive {name}; got {value!r}.")
        if not 0 <= self.warmup < 1:
            raise InputError(
                f"hparams: expected warmup as a share from 0 to 1; got {self.warmup!r}."
            )
        if self.schedule not in ("cosine", "constant"):
            raise InputError(
                f"hparams: expected schedule 'cosine' or 'constant'; got {self.schedule!r}."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


Recipe = Callable[[ParamCount, float, str], HParams]


def default(params: ParamCount, units: float, unit: str) -> HParams:
    """Learning rate falling with size, batch growing with the run.

    The learning rate is the line through the sizes of Brown et al. 2020, Table 2.1
    (6e-4 at 125 M, 1e-4 at 13 B): 6e-4·(N/1.25e8)^−0.39, at most 0.02. The batch follows the
    exponent of Li et al. 2025 (StepLaw), D^0.571, with a quarter of its constant: short runs need
    steps more than they need large batches.
    """
    lr = min(0.02, 6e-4 * (params.non_embedding / 1.25e8) ** -0.39)
    batch = max(0.15 * units**0.571, 1.0)
    return HParams(lr=lr, batch_units=batch, beta2=0.98, recipe="default-1")


RECIPES: Mapping[str, Recipe] = {"default": default}


def resolve_recipe(hparams: str | Recipe | Mapping[str, Any] | HParams) -> Recipe:
    """A recipe from its name, from a user's function, or from values that hold for every run."""
    if isinstance(hparams, str):
        if hparams not in RECIPES:
            near = difflib.get_close_matches(hparams, RECIPES, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise InputError(
                f"hparams: no recipe is called {hparams!r}; there are {sorted(RECIPES)}.{hint}"
            )
        return RECIPES[hparams]
    if isinstance(hparams, HParams):
        fixed = hparams
        return lambda params, units, unit: fixed
    if isinstance(hparams, Mapping):
        values = dict(hparams)
        return lambda params, units, unit: _override(default(params, units, unit), values)
    if callable(hparams):
        recipe = hparams
        return lambda params, units, unit: _checked(
            recipe(params, units, unit), params, units, unit
        )
    raise InputTypeError(
        "hparams: expected a recipe's name, a dict, an HParams or a function "
        f"(params, units, unit) -> HParams; got {type(hparams).__name__}."
    )


def _checked(made: Any, params: ParamCount, units: float, unit: str) -> HParams:
    if isinstance(made, HParams):
        return made
    if isinstance(made, Mapping):
        return _override(default(params, units, unit), made)
    raise InputTypeError(
        f"hparams: expected the recipe to return an HParams or a dict; got {type(made).__name__}."
    )


def _override(base: HParams, values: Mapping[str, Any]) -> HParams:
    known = set(asdict(base))
    unknown = set(values) - known
    if unknown:
        raise InputError(f"hparams: unknown {sorted(unknown)}; known are {sorted(known)}.")
    return replace(base, **{"recipe": "custom", **values})


def learning_rate(hparams: Mapping[str, Any], progress: float) -> float:
    """The learning rate after a share ``progress`` of the run's units.

    Linear from 0 over the warmup, then half a cosine to 0 at progress 1, or constant.
    """
    peak, warmup = float(hparams["lr"]), float(hparams["warmup"])
    if progress < warmup:
        return peak * progress / warmup
    if hparams["schedule"] == "constant":
        return peak
    done = (progress - warmup) / (1 - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
