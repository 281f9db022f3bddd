"""What each parameter is to the width of a model: found from its shapes at several sizes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from flops_fit.errors import ModelError
from flops_fit.objective import Objective, map_tensors
from flops_fit.text import error_line
from flops_fit.train.mup_trace import Uses, by_class, trace_uses

if TYPE_CHECKING:
    from torch import nn


Role = Literal["hidden", "output", "tied", "input", "vector", "fixed"]
_SHOWN = 3


@dataclass(frozen=True)
class WeightRole:
    """Parameters of one name, or of names that differ in their numbers alone.

    Attributes
    ----------
    name
        ``"head.weight"``, or ``"blocks.*.qkv.weight"`` where their number grows too.
    role
        ``"hidden"``: its inputs and its outputs grow in number; ``"output"``: its inputs alone;
        ``"tied"``: an output that is looked up as a table too; ``"input"``: its outputs alone;
        ``"vector"``: no input is summed over (biases, gains, positions); ``"fixed"``: nothing of
        it grows.
    inputs
        The dimensions that are summed over.
    shape
        At the base size.
    rms
        Of its initial values at the base size; ``None`` where they were not asked for.
    """

    name: str
    role: Role
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    rms: float | None = None

    def growth(self, shape: Sequence[int]) -> float:
        """fan_in/base_fan_in: how many times more inputs a weight of this shape sums over."""
        now, before = (math.prod(s[i] for i in self.inputs) for s in (shape, self.shape))
        return now / before


def find_roles(
    models: Sequence[nn.Module], objective: Objective, batch: Any
) -> tuple[tuple[WeightRole, ...], tuple[str, ...]]:
    """The kinds of parameters of a model that was built at several sizes, and what to know of them.

    Parameters
    ----------
    models
        The base first, the largest last; on the meta device where they can be.
    objective, batch
        How a model is called, and with what; without a batch roles follow from torch's own layers
        alone.

    Raises
    ------
    ModelError
        Names or shapes do not fit together from size to size.
    """
    shapes = [{name: tuple(p.shape) for name, p in m.named_parameters()} for m in models]
    groups = _grouped(shapes)
    # What grows in depth is seen whole in the largest; one with memory is not run at such a size.
    traced = models[-1] if _on_meta(models[-1]) else models[0]
    uses, notes = _uses(traced, objective, batch)
    layers = by_class(traced)
    kinds: list[WeightRole] = []
    assumed: list[str] = []
    unknown: list[str] = []
    for kind, members in groups.items():
        seen = [n for n in members[-1 if traced is models[-1] else 0] if n in uses.met]
        inputs = {i for n in seen for i in uses.contracted.get(n, ())}
        table = any(n in uses.looked_up for n in seen)
        sizes = [s[names[0]] for s, names in zip(shapes, members, strict=True)]
        if uses.mixed.intersection(seen):
            inputs = set()
            unknown.append(kind)
        elif not seen:
            known = next((layers[n] for names in members for n in names if n in layers), None)
            inputs = set(known or ())
            told = unknown if known is None else assumed
            told += [kind] if len(sizes[0]) > 1 else []
        kinds.append(
            WeightRole(kind, _role(sizes, inputs, table), tuple(sorted(inputs)), tuple(sizes[0]))
        )
    if batch is not None and assumed:
        notes.append(
            f"the roles of {_listed(assumed)} are those of torch's layers: no trace saw them"
        )
    if unknown:
        notes.append(f"the roles of {_listed(unknown)} are not known: their rates are not scaled")
    return tuple(kinds), tuple(notes)


def fits(name: str, pattern: str) -> bool:
    """Whether a name is of a kind: equal to it part by part, where ``*`` stands for any number."""
    parts, wanted = name.split("."), pattern.split(".")
    pairs = zip(parts, wanted, strict=False)
    return len(parts) == len(wanted) and all(a == b or (b == "*" and a.isdigit()) for a, b in pairs)


def _grouped(shapes: Sequence[Mapping[str, Any]]) -> dict[str, list[list[str]]]:
    """Names of one kind, size by size: those that differ in a number that grows are one."""
    growing = _growing(shapes)
    groups: dict[str, list[list[str]]] = defaultdict(lambda: [[] for _ in shapes])
    for place, named in enumerate(shapes):
        for name in named:
            groups[".".join(_replaced(name, growing))][place].append(name)
    for kind, members in groups.items():
        if not all(members):
            raise ModelError(
                f"parametrization: expected the same kinds of parameters at every size; {kind} is not "
                "at all of them. Give sizes that have it, or param_groups= in place of a parametrization."
            )
        for named, names in zip(shapes, members, strict=True):
            odd = next((n for n in names if named[n] != named[names[0]]), None)
            if odd is not None:
                raise ModelError(
                    f"parametrization: the number of {kind} changes with the size, so they are "
                    f"expected to be alike; {names[0]} is {tuple(named[names[0]])} and {odd} is "
                    f"{tuple(named[odd])}. Give those that differ names of their own, or sizes of one "
                    "depth, or param_groups= in place of a parametrization."
                )
        dims = {len(named[names[0]]) for named, names in zip(shapes, members, strict=True)}
        if len(dims) > 1:
            raise ModelError(
                f"parametrization: expected {kind} to have as many dimensions at every size; it has "
                f"{' or '.join(map(str, sorted(dims)))}. Give param_groups= in place of a parametrization."
            )
    return dict(groups)


def _growing(shapes: Sequence[Mapping[str, Any]]) -> set[tuple[str, ...]]:
    """Beginnings of names after which a number stands that has other values at other sizes."""
    growing: set[tuple[str, ...]] = set()
    while True:
        values: dict[tuple[str, ...], list[set[str]]] = defaultdict(lambda: [set() for _ in shapes])
        for place, named in enumerate(shapes):
            for name in named:
                parts, replaced = name.split("."), _replaced(name, growing)
                for i, part in enumerate(parts):
                    if part.isdigit():
                        values[replaced[:i]][place].add(part)
        found = {head for head, sets in values.items() if any(s != sets[0] for s in sets)}
        if found <= growing:
            return growing
        growing.add(min(found - growing, key=len))  # what follows it is compared anew


def _replaced(name: str, growing: set[tuple[str, ...]]) -> tuple[str, ...]:
    out: tuple[str, ...] = ()
    for part in name.split("."):
        out = (*out, "*" if part.isdigit() and out in growing else part)
    return out


def _role(shapes: Sequence[Any], inputs: set[int], table: bool) -> Role:
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
    here = map_tensors(batch, lambda t: t.to("meta")) if _on_meta(model) else batch
    inputs: list[Any] = []
    map_tensors(here, inputs.append)
    run = objective if objective.step_fn is not None else objective.output
    try:
        return trace_uses(lambda: run(model, here), model, inputs), []
    except Exception as error:  # the user's model may raise anything where nothing has values
        return Uses(), [
            f"the model could not be traced ({error_line(error)}): roles are those of torch's layers"
        ]


def _on_meta(model: nn.Module) -> bool:
    return all(p.is_meta for p in model.parameters())


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
