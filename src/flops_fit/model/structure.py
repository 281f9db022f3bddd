"""What can be read off a built model that decides its FLOPs: its parts, and the numbers that it keeps."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from numbers import Real
from typing import Any

import numpy as np

from flops_fit.lazy import nn

_MANY = 64  # entries of a list, and of an object, that are looked at
_DEPTH = 3  # of lists and objects in each other
_LONGEST = 80  # characters of a text


@dataclass
class Structure:
    """Parts of a model, layers counted together, and the least and the greatest of its numbers by name.

    ``counts`` are of modules, of parameters along each axis, and of words and choices that modules keep.
    """

    counts: Counter[str] = field(default_factory=Counter)
    spans: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """All names; models of other names are of another kind."""
        return (*sorted(self.counts), *sorted(self.spans))

    @property
    def values(self) -> tuple[int, ...]:
        """The counts in the order of their names."""
        return tuple(self.counts[name] for name in sorted(self.counts))


def model_structure(model: Any) -> Structure:
    """The structure of a torch module."""
    out = Structure()
    usual, seen = vars(nn.Module()), {id(model)}
    for name, module in model.named_modules():
        place = re.sub("[0-9]+", "*", name)
        out.counts[f"{place}: {type(module).__qualname__}"] += 1
        own = [(f"{place}.{k}", v) for k, v in vars(module).items() if k not in usual]
        for key, value in (found for k, v in own for found in _plain(k, v, seen, _DEPTH)):
            if value is None:
                out.counts[key] += 1
            else:
                least, most = out.spans.get(key, (value, value))
                out.spans[key] = min(least, value), max(most, value)
    for name, parameter in model.named_parameters():
        key = f"{re.sub('[0-9]+', '*', name)} {parameter.requires_grad}"
        out.counts[f"{key} {parameter.dtype}"] += parameter.numel()
        for axis, length in enumerate(parameter.shape):
            out.counts[f"{key} {axis}"] += length
    return out


def _plain(key: str, value: Any, seen: set[int], depth: int) -> Iterator[tuple[str, float | None]]:
    """Numbers in an attribute, by name; words and choices as names alone. Each object is looked at once."""
    if value is None or isinstance(value, bool | np.bool_ | str):
        yield f"{key}={re.sub('[0-9]+', '*', str(value))[:_LONGEST]}", None
    elif isinstance(value, Real):
        yield key, float(value)
    elif isinstance(value, list | tuple):
        yield f"{key}#", float(len(value))
        for item in value[: _MANY * (depth > 0)]:
            yield from _plain(f"{key}[]", item, seen, depth - 1)
    elif depth and not callable(value) and not hasattr(value, "detach"):
        parts = value if isinstance(value, Mapping) else getattr(value, "__dict__", {})
        if id(value) not in seen:
            seen.add(id(value))
            for name, part in islice(parts.items(), _MANY):
                yield from _plain(f"{key}.{name}", part, seen, depth - 1)
