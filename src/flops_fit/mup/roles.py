"""How each parameter depends on the width of a model, found from its shapes at several sizes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from flops_fit.errors import ModelError
from flops_fit.mup.trace import Uses, summed_by_layers, trace_uses
from flops_fit.objective import Objective, map_tensors
from flops_fit.text import error_line, listed

if TYPE_CHECKING:
    from torch import nn

Role = Literal["hidden", "output", "tied", "input", "vector", "fixed"]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class WeightRole:
    """The role of parameters of one name, such as ``"blocks.*.qkv.weight"`` if their number grows too.

    ``role`` is ``"hidden"`` (its inputs and its outputs grow in number), ``"output"`` (only its inputs),
    ``"tied"`` (an output that is also looked up as a table), ``"input"`` (only its outputs), ``"vector"``
    (no input is summed over: biases, gains, positions) or ``"fixed"`` (nothing grows). ``inputs`` are the
    dimensions that are summed over; ``shape``, and ``rms`` of the initial values if measured, are those
    at the base size.
    """

    name: str
    role: Role
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    rms: float | None = None

    def growth(self, shape: Sequence[int]) -> float:
        """fan_in/base_fan_in: how many times more inputs a weight of this shape sums over."""
        now, base = (math.prod(s[i] for i in self.inputs) for s in (shape, self.shape))
        return now / base


def find_roles(
    models: Sequence[nn.Module], objective: Objective, batch: Any
) -> tuple[tuple[WeightRole, ...], tuple[str, ...]]:
    """The roles of the parameters of a model at several sizes, the base first, and what is not known."""
    shapes = [{name: tuple(p.shape) for name, p in m.named_parameters()} for m in models]
    # What grows in depth is complete in the largest; one with memory is not run at such a size.
    index = -1 if _on_meta(models[-1]) else 0
    uses, notes = _uses(models[index], objective, batch)
    layers = summed_by_layers(models[index])
    roles: list[WeightRole] = []
    assumed: list[str] = []
    unknown: list[str] = []
    for kind, members in _grouped(shapes).items():
        seen = [n for n in members[index] if n in uses.met]
        inputs = {i for n in seen for i in uses.summed.get(n, ())}
        sizes = [s[names[0]] for s, names in zip(shapes, members, strict=True)]
        if uses.mixed.intersection(seen):
            inputs = set()
            unknown.append(kind)
        elif not seen:
            known = next((layers[n] for names in members for n in names if n in layers), None)
            inputs = set(known or ())
            if len(sizes[0]) > 1:
                (unknown if known is None else assumed).append(kind)
        role = _role(sizes, inputs, any(n in uses.looked_up for n in seen))
        roles.append(WeightRole(kind, role, tuple(sorted(inputs)), sizes[0]))
    if batch is not None and assumed:
        notes.append(
            f"the roles of {listed(assumed, 3, ', ')} are those of torch's layers: no trace saw them"
        )
    if unknown:
        names = listed(unknown, 3, ", ")
        notes.append(f"the roles of {names} are not known: their rates are not scaled")
    return tuple(roles), tuple(notes)


def fits(name: str, pattern: str) -> bool:
    """Whether a name is equal to a pattern part by part, where ``*`` stands for any number."""
    parts, expected = name.split("."), pattern.split(".")
    if len(parts) != len(expected):
        return False
    return all(a == b or (b == "*" and a.isdigit()) for a, b in zip(parts, expected, strict=True))


def _grouped(shapes: Sequence[Shapes]) -> dict[str, list[list[str]]]:
    """Names of one kind, size by size: those that differ in a number that grows are one."""
    growing = _growing(shapes)
    groups: dict[str, list[list[str]]] = defaultdict(lambda: [[] for _ in shapes])
    for i, named in enumerate(shapes):
        for name in named:
            groups[".".join(_replaced(name, growing))][i].append(name)
    for kind, members in groups.items():
        if why := _difference(kind, shapes, members):
            raise ModelError(
                f"parametrization: expected parameters that are alike at every size; {why}. Give sizes "
                "of one depth, names of their own, or param_groups= in place of a parametrization."
            )
    return dict(groups)


def _difference(kind: str, shapes: Sequence[Shapes], members: Sequence[Sequence[str]]) -> str:
    """Why parameters of one kind cannot be compared; empty if they can."""
    if not all(members):
        return f"{kind} is not at all of them"
    for named, names in zip(shapes, members, strict=True):
        first, odd = names[0], next((n for n in names if named[n] != named[names[0]]), None)
        if odd is not None:
            differ = f"{first} is {named[first]} and {odd} is {named[odd]}"
            return f"the number of {kind} changes with the size, and {differ}"
    dims = {len(named[names[0]]) for named, names in zip(shapes, members, strict=True)}
    return f"{kind} has {' or '.join(map(str, sorted(dims)))} dimensions" if len(dims) > 1 else ""


def _growing(shapes: Sequence[Shapes]) -> set[tuple[str, ...]]:
    """Beginnings of names that are followed by a number whose values differ between sizes."""
    growing: set[tuple[str, ...]] = set()
    while True:
        values: dict[tuple[str, ...], list[set[str]]] = defaultdict(lambda: [set() for _ in shapes])
        for i, named in enumerate(shapes):
            for name in named:
                replaced = _replaced(name, growing)
                for k, part in enumerate(name.split(".")):
                    if part.isdigit():
                        values[replaced[:k]][i].add(part)
        heads = {head for head, sets in values.items() if any(s != sets[0] for s in sets)}
        if heads <= growing:
            return growing
        growing.add(min(heads - growing, key=len))  # what follows it is compared anew


def _replaced(name: str, growing: set[tuple[str, ...]]) -> tuple[str, ...]:
    out: tuple[str, ...] = ()
    for part in name.split("."):
        out = (*out, "*" if part.isdigit() and out in growing else part)
    return out


def _role(shapes: Sequence[tuple[int, ...]], inputs: set[int], table: bool) -> Role:
    grown = {i for s in shapes for i in range(len(s)) if s[i] != shapes[0][i]}
    if not grown:
        return "fixed"
    if not grown & inputs:
        return "input" if inputs or table else "vector"
    if table:
        return "tied"
    return "hidden" if grown - inputs else "output"


def _uses(model: nn.Module, objective: Objective, batch: Any) -> tuple[Uses, list[str]]:
    if batch is None:
        return Uses(), [
            "there was no data to trace the model on: roles are those of torch's layers"
        ]
    moved = map_tensors(batch, lambda t: t.to("meta")) if _on_meta(model) else batch
    inputs: list[Any] = []
    map_tensors(moved, inputs.append)
    run = objective if objective.step_fn is not None else objective.output
    try:
        return trace_uses(lambda: run(model, moved), model, inputs), []
    except Exception as error:  # the user's model may raise anything without values
        why = f"the model could not be traced ({error_line(error)})"
        return Uses(), [f"{why}: roles are those of torch's layers"]


def _on_meta(model: nn.Module) -> bool:
    return all(p.is_meta for p in model.parameters())
