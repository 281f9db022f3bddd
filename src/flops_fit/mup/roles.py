"""How each parameter depends on the width of a model: which dimensions grow, and which are summed over."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flops_fit.batches import map_tensors, tensors_of
from flops_fit.errors import ModelError
from flops_fit.flops.trace import LOOKUPS, each_operation, storage, tensors_in
from flops_fit.lazy import nn
from flops_fit.objective import Objective
from flops_fit.text import error_line, listed

Role = Literal["hidden", "output", "tied", "input", "vector", "fixed"]
Shapes = Mapping[str, tuple[int, ...]]

# The operands of a product: position among the arguments, and the dimension that is summed over.
_PRODUCTS: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {
    **dict.fromkeys(("mm", "mv"), ((0, 1), (1, 0))),
    **dict.fromkeys(("addmm", "_addmm_activation", "addmv"), ((1, 1), (2, 0))),
    **dict.fromkeys(("baddbmm", "addbmm"), ((1, 2), (2, 1))),
    "bmm": ((0, 2), (1, 1)),
    "dot": ((0, 0), (1, 0)),
    "_grouped_mm": ((0, -1), (1, -2)),
}
_CONVOLUTIONS = ("convolution", "_convolution", "convolution_overrideable")

Layout = tuple[tuple[int, int, frozenset[int]], ...]  # stride, length, dimensions of the parameter


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
    """Whether a name is equal to a pattern in which ``*`` stands for any number."""
    return re.fullmatch(re.escape(pattern).replace(r"\*", r"\d+"), name) is not None


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
    by_layers = "roles are those of torch's layers"
    if batch is None:
        return Uses(), [f"there was no data to trace the model on: {by_layers}"]
    moved = map_tensors(batch, lambda t: t.to("meta")) if _on_meta(model) else batch
    run = objective if objective.step_fn is not None else objective.output
    try:
        return trace_uses(lambda: run(model, moved), model, tensors_of(moved)), []
    except Exception as error:  # the user's model may raise anything without values
        return Uses(), [f"the model could not be traced ({error_line(error)}): {by_layers}"]


def _on_meta(model: nn.Module) -> bool:
    return all(p.is_meta for p in model.parameters())


def trace_uses(forward: Callable[[], Any], model: nn.Module, batch: Iterable[Any]) -> Uses:
    """Run ``forward()`` and record every operation below autograd that a parameter is part of."""
    uses = Uses(model, batch)
    with each_operation(uses.record):
        forward()
    return uses


class Uses:
    """How each parameter enters a forward pass, by its name.

    A parameter is followed by its storage, a dimension by its stride; only products with what depends on
    ``batch`` count.
    """

    def __init__(self, model: nn.Module | None = None, batch: Iterable[Any] = ()) -> None:
        # The dimensions that products with activations sum over.
        self.summed: dict[str, set[int]] = defaultdict(set)
        self.looked_up: set[str] = set()  # tables: rows of them are taken by index
        self.met: set[str] = set()  # those that share an operation with an activation
        # A dimension is summed over in part, as in a matrix stored as a vector: the fan-in is unknown.
        self.mixed: set[str] = set()
        self._layouts: dict[int, list[tuple[str, Layout]]] = {}
        self._alive: list[Any] = []  # an address is not used again while its owner lives
        self._data = {self._address(tensor) for tensor in batch}
        for name, p in model.named_parameters() if model is not None else ():
            own = tuple((s, n, frozenset([i])) for i, (s, n) in _steps(p))
            self._layouts[self._address(p)] = [(name, own)]
        self._own = frozenset(self._layouts)

    def record(self, operation: str, _: Any, args: Any, kwargs: Any, out: Any, again: bool) -> None:
        """One operation, as :func:`each_operation` shows it."""
        name = operation.removeprefix("aten.").rstrip("_")
        tensors = list(tensors_in([*args, *kwargs.values()]))
        weights = [t for t in tensors if storage(t) in self._layouts]
        of_data = any(storage(t) in self._data for t in tensors)
        if weights and of_data:
            self.met |= {name for t in weights for name, _ in self._layouts[storage(t)]}
            for tensor, dims in _summed(name, args):
                self._add_product(tensor, dims)
        if weights and name in LOOKUPS:
            self.looked_up |= {n for n, _ in self._layouts.get(storage(args[0]), [])}
        results = [t for t in tensors_in([out]) if storage(t) not in self._own]
        for tensor in results:
            if of_data or (weights and name in LOOKUPS):
                self._data.add(self._address(tensor))
                self._layouts.pop(storage(tensor), None)  # it may be written in place
            elif weights and storage(tensor) not in self._layouts:
                self._derive(tensor, weights)

    def _add_product(self, tensor: Any, dims: Iterable[int]) -> None:
        """A product sums over these dimensions of a tensor that may be, or view, a parameter."""
        dims = {d % tensor.dim() for d in dims}
        for name, layout in self._layouts.get(storage(tensor), []):
            summed, others = set[int](), set[int]()
            for i, step in _steps(tensor):
                (summed if i in dims else others).update(_within(step, layout))
            self.summed[name] |= summed
            if summed & others:
                self.mixed.add(name)

    def _derive(self, result: Any, weights: Sequence[Any]) -> None:
        """What is computed from parameters alone has their dimensions, aligned at the last one."""
        layouts: list[tuple[str, Layout]] = []
        for weight in weights:
            steps, shift = dict(_steps(weight)), result.dim() - weight.dim()
            for name, layout in self._layouts[storage(weight)]:
                aligned = tuple(
                    (stride, length, frozenset(_within(steps[i - shift], layout)))
                    for i, (stride, length) in _steps(result)
                    if steps.get(i - shift, (0, 0))[1] == length
                )
                layouts.append((name, aligned))
        self._layouts[self._address(result)] = layouts

    def _address(self, tensor: Any) -> int:
        self._alive.append(tensor)
        return storage(tensor)


def _summed(name: str, args: Sequence[Any]) -> Iterator[tuple[Any, Sequence[int]]]:
    """The operands of a product, each with its dimensions that are summed over."""
    if name in _PRODUCTS:
        for position, dim in _PRODUCTS[name]:
            yield args[position], (dim,)
    elif name in _CONVOLUTIONS:
        weight, transposed = args[1], bool(args[6])
        yield weight, [0 if transposed else 1, *range(2, weight.dim())]
    elif name == "_trilinear":
        rank, summed = args[0].dim() + len(args[3]), set(args[6])
        for tensor, expanded in zip(args[:3], args[3:6], strict=True):
            axes = [axis for axis in range(rank) if axis not in expanded]
            yield tensor, [i for i, axis in enumerate(axes) if axis in summed]


def _within(step: tuple[int, int], layout: Layout) -> set[int]:
    """The dimensions of the parameter that ``length`` steps of ``stride`` elements move along."""
    # Stride s and length n span s to s·n; spans overlap, so two dimensions flattened into one match.
    stride, length = step
    overlapping = (d for s, n, d in layout if stride < s * n and s < stride * length)
    return {i for dims in overlapping for i in dims}


def _steps(tensor: Any) -> list[tuple[int, tuple[int, int]]]:
    """Stride and length of each dimension that has more than one element, none of them repeated."""
    pairs = enumerate(zip(tensor.stride(), tensor.shape, strict=True))
    return [(i, (int(s), int(n))) for i, (s, n) in pairs if n > 1 and s > 0]


def summed_by_layers(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The dimensions that torch's own layers sum over, by the names of their weights."""
    spared = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)
    norms = nn.modules.batchnorm._NormBase
    layers = (nn.Linear, nn.Bilinear, nn.MultiheadAttention, nn.RNNBase)
    known: dict[int, tuple[int, ...]] = {}
    for module in model.modules():
        for p in module.parameters(recurse=False):
            if isinstance(module, (*spared, norms)) or p.dim() < 2:
                known.setdefault(id(p), ())
            elif isinstance(module, (*layers, nn.modules.conv._ConvNd)):
                first = 0 if getattr(module, "transposed", False) else 1
                known[id(p)] = (first, *range(2, p.dim()))
    return {name: known[id(p)] for name, p in model.named_parameters() if id(p) in known}
