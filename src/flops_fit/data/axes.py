"""Data sets that a further argument of a sweep decides, such as the share of a mixture."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from flops_fit.data.spec import EVAL_SAMPLES, DataSpec, check_dataset_type, split_data
from flops_fit.errors import InputError
from flops_fit.fingerprint import fingerprint_values


@dataclass(frozen=True, eq=False)
class DataAxes:
    """A part to train on for each set of values of ``names``, the arguments of the user's function."""

    names: tuple[str, ...]
    parts: Mapping[str, DataSpec]

    def of(self, size: Any) -> DataSpec:
        """The data of a size, which is a dict of arguments."""
        return self.parts[_key([size[name] for name in self.names])]

    def fingerprints(self) -> list[str]:
        """One of each part."""
        return [part.fingerprint() for part in self.parts.values()]

    def refuse_lengths(self) -> None:
        """Refuse samples that differ in length: their cost is counted on one of the data sets."""
        raise InputError(
            f"dataset: expected samples of one length whatever {', '.join(self.names)}; got several "
            "lengths. Cut or pad them to one."
        )


def _key(values: Sequence[Any]) -> str:
    """Values as a record of a run has them."""
    plain = (v.item() if isinstance(v, np.generic) else v for v in values)
    return repr([list(v) if isinstance(v, tuple) else v for v in plain])


def axes_of_data(dataset: Any, axes: Mapping[str, Sequence[Any]]) -> tuple[str, ...]:
    """The arguments of a function that makes data sets; none where ``dataset`` is no function.

    InputError where one of them is no axis of the sweep.
    """
    if not (inspect.isroutine(dataset) or isinstance(dataset, partial)):
        return ()
    own = inspect.signature(dataset).parameters.values()
    names = tuple(p.name for p in own if p.default is p.empty or p.name in axes)
    if not names or (missing := [name for name in names if name not in axes]):
        raise InputError(
            "dataset: expected a data set, or a function of arguments that design=Grid(axes=...) varies; got "
            f"one of {missing if names else 'none of them'}, and the axes are {list(axes)}. Call it, or give "
            'Grid(axes={"share": [0, 0.5, 1]}).'
        )
    return names


def made_data(
    make: Callable[..., Any],
    axes: Mapping[str, Sequence[Any]],
    eval_dataset: Any,
    most: int = EVAL_SAMPLES,
) -> tuple[tuple[DataSpec, DataSpec], DataAxes]:
    """The smallest data set with the held-out part, as :func:`split_data` has them; and all of them.

    InputError without ``eval_dataset``, or where samples of two data sets differ in their shapes.
    """
    if eval_dataset is None:
        raise InputError(
            "eval_dataset: runs on different data are compared on the same held-out samples; got none. "
            "Give eval_dataset= as well."
        )
    names = axes_of_data(make, axes)
    splits = {}
    for values in itertools.product(*(axes[name] for name in names)):
        dataset = make(**dict(zip(names, values, strict=True)))
        check_dataset_type(dataset)
        splits[_key(values)] = split_data(dataset, eval_dataset, most)
    shapes = {
        key: fingerprint_values(train.spread(1), structure=True)
        for key, (train, _) in splits.items()
    }
    first, *others = shapes
    if odd := [key for key in others if shapes[key] != shapes[first]]:
        raise InputError(
            f"dataset: expected samples of one shape, whatever {', '.join(names)}; those of {odd[0]} differ "
            f"from those of {first}."
        )
    smallest = min(splits.values(), key=lambda split: split[0].size or float("inf"))
    return smallest, DataAxes(names, {key: train for key, (train, _) in splits.items()})
