"""How many parameters a model has, under each convention, and at which size it has so many."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from flops_fit.errors import InputTypeError, ModelError, is_number
from flops_fit.lazy import nn, torch
from flops_fit.records import ParamCount

_LARGEST_SCANNED = 1024  # every size up to here is tried until two are accepted
_LARGER_TRIED = tuple(2**k for k in range(11, 18))  # where none of those is accepted
_STEPS_TO_GROW = (64, 1024)  # sizes after which N must have grown, at one of them
_NEIGHBOURS = 64  # sizes tried on each side of a refused one


@dataclass(frozen=True)
class Experts:
    """Equal experts of which a unit passes ``each``: their name, how many, and their parameters."""

    name: str
    number: int
    params: int
    each: float


def find_experts(model: Any, calls: Mapping[str, Sequence[float]]) -> tuple[Experts, ...]:
    """Parallel parts of a model of which each position passes some, as a trace shows.

    ``calls`` are the positions that each weight multiplied, call by call, in order of first use. Parts are
    n equal modules of a list, or the first dimension of a weight of three that is of no layer of torch's own.
    A matrix beside them that ran before, on R positions, shows that they are experts if none ran on more, and
    one at once on fewer, than it did: as their router if it has n outputs, else if they ran on unequal shares
    that make up a whole multiple of R. A block that is left out runs on none.
    """
    layers: list[Experts] = []
    order = {name: place for place, name in enumerate(calls)}
    ran = {name: sum(positions) for name, positions in calls.items()}
    modules = dict(model.named_modules()) if isinstance(model, nn.Module) else {}
    for inside, child in modules.items():
        path = inside.rpartition(".")[0]
        parts = _parts(child, inside)
        shares = [max((ran.get(w, 0.0) for w in weights), default=0.0) for weights in parts]
        if not (number := len(shares)) > 1 or not sum(shares):
            continue
        own = {weight for weights in parts for weight in weights}
        first = min(order[weight] for weight in own if weight in order)
        at_once = min(ran[weight] / len(calls[weight]) for weight in own if weight in order)
        for weight, parameter in modules[path].named_parameters(path):
            near = weight[len(path) :].count(".") < 4 and weight not in own
            positions = ran.get(weight, 0.0) if near and parameter.dim() == 2 else 0.0
            if not max(shares) <= positions > sum(shares) / number or order[weight] > first:
                continue
            each = sum(shares) / positions
            chosen = number in parameter.shape or (each % 1 == 0 and len({*shares}) > 1)
            if chosen and at_once < positions / len(calls[weight]):
                params = sum(p.numel() for p in child.parameters())
                layers.append(Experts(inside, number, params, each))
                break
    return tuple(layers)


def _parts(child: nn.Module, path: str) -> list[list[str]]:
    """The names of the weights of each of the equal parts of a module."""
    if isinstance(child, nn.ModuleList | nn.ModuleDict):
        parts = list(child.named_children())
        shapes = {(type(m), *(tuple(p.shape) for p in m.parameters())) for _, m in parts}
        named = ([n for n, _ in m.named_parameters(f"{path}.{name}")] for name, m in parts)
        return list(named) if len(shapes) == 1 else []
    homes = [kind.__module__ for kind in type(child).__mro__[:-2]]
    if any(h.startswith("torch.nn.modules.") and "container" not in h for h in homes):
        return []
    stacked = {n: p for n, p in child.named_parameters(recurse=False) if p.dim() == 3}
    numbers = {p.shape[0] for p in stacked.values()}
    own = [f"{path}.{name}".lstrip(".") for name in stacked]
    return [own] * numbers.pop() if len(numbers) == 1 else []


def count_params(model: Any, name: str = "the model") -> ParamCount:
    """Count a model's parameters under each convention.

    A model's own ``num_params()`` is taken as its total, its ``active_params()`` as those that one unit
    passes; without them a torch module is counted. InputTypeError for what is neither; ModelError where a
    method raises or gives no positive whole number, more are active than there are, or there are none.
    """
    total = _declared(model, name, "num_params")
    active = _declared(model, name, "active_params")
    is_module = isinstance(model, torch.nn.Module)
    if not is_module and total is None:
        raise InputTypeError(
            f"model_cls: expected {name} to return a torch.nn.Module or an object with "
            f"num_params(); got {type(model).__name__}, which is neither."
        )
    if is_module:
        if any(isinstance(p, torch.nn.UninitializedParameter) for p in model.parameters()):
            raise ModelError(
                f"model_cls: {name} has lazy layers, whose sizes are unknown before the first batch. "
                "Give its layers their sizes."
            )
        total = sum(p.numel() for p in model.parameters()) if total is None else total
    if not total:
        raise ModelError(
            f"model_cls: {name} has no parameters, so it has no size. Check its constructor."
        )
    if active is not None and active > total:
        raise ModelError(
            f"model_cls: {name}.active_params() returned {active:,}, more than its {total:,} "
            "parameters. It must return those that one unit passes."
        )
    active = total if active is None else active
    if not is_module:
        return ParamCount(total, total, total, active)
    lookup, matrices = _lookup_and_matrices(model)
    weights: Counter[int] = Counter()
    for count, inputs in matrices.values():
        weights[inputs] += count
    return ParamCount(
        total=total,
        non_embedding=max(total - sum(lookup.values()), 1),
        matmul=weights.total(),
        active=active,
        # The number of inputs that the most weights belong to; of equals the largest.
        width=max(weights, key=lambda inputs: (weights[inputs], inputs), default=0),
    )


def _declared(model: Any, name: str, what: str) -> int | None:
    """What the model's own method or attribute says."""
    method = getattr(model, what, None)
    if method is None:
        return None
    try:
        value = method() if callable(method) else method
    except Exception as error:  # the user's method may raise anything
        raise ModelError(
            f"model_cls: {name}.{what}() raised {type(error).__name__}: {error}. "
            "Fix it, or leave it out and the parameters are counted."
        ) from error
    if not is_number(value) or value < 1:
        raise ModelError(
            f"model_cls: {name}.{what}() returned {value!r}; expected a positive whole number."
        )
    return int(value)


def _lookup_and_matrices(model: nn.Module) -> tuple[dict[int, int], dict[int, tuple[int, int]]]:
    """Sizes of parameters that are looked up, and (size, inputs) of those that multiply; tied are both."""
    conv = nn.modules.conv._ConvNd
    known = (nn.Linear, nn.Bilinear, nn.MultiheadAttention, nn.RNNBase, conv)
    lookup: dict[int, int] = {}
    matrices: dict[int, tuple[int, int]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if isinstance(module, nn.Embedding | nn.EmbeddingBag):
                lookup[id(parameter)] = parameter.numel()
            elif parameter.dim() == 2 or (isinstance(module, known) and parameter.dim() > 2):
                inputs = module.in_channels if isinstance(module, conv) else parameter.shape[1]
                matrices[id(parameter)] = (parameter.numel(), int(inputs))
    return lookup, matrices


@dataclass
class SizeSearch:
    """A search over the whole numbers that a constructor takes as its size."""

    count: Callable[[int], ParamCount | None]  # None where refused, for the reason in refusals
    reference: str
    size_param: str
    refusals: dict[str, str]
    _grid: tuple[int, int] | None = field(default=None, repr=False)

    def nearest(self, params: float) -> tuple[int, ParamCount] | None:
        """The accepted size whose total N is nearest to ``params``, or ``None`` below a third."""
        first, stride = self.grid()

        def near(k: int) -> tuple[int, ParamCount] | None:
            return self._near(first + stride * k)

        low, high = 0, 1
        while (top := near(high)) is not None and top[1].total < params:
            low, high = high, high * 2
        if top is None:
            between = range(low + 1, high)
            high = low + bisect_left(between, True, key=lambda k: near(k) is None)
        while high - low > 1:
            k = (low + high) // 2
            a, b = near(low), near(high)
            if a is not None and b is not None:
                n0, n1 = math.log(a[1].total), math.log(b[1].total)
                if b[0] > a[0] and n1 > n0:  # where N = params lies if N is a power of the size
                    share = min(max((math.log(params) - n0) / (n1 - n0), 0.0), 1.0)
                    size = a[0] * (b[0] / a[0]) ** share
                    k = min(max(round((size - first) / stride), low + 1), high - 1)
            at = near(k)
            if at is None:
                break
            low, high = (k, high) if at[1].total < params else (low, k)
        accepted = [end for end in (near(low), near(high)) if end is not None]

        def miss(size: tuple[int, ParamCount]) -> float:
            return abs(math.log(size[1].total / params))

        best = min(accepted, key=miss)
        best = min([best, *self._beside(best, params, stride)], key=miss)
        if best[1].total < params / 3:
            return None
        # A constructor that rounds its sizes has one model at several: it is that of the smallest.
        least, place = best[1].total, (best[0] - first) // stride

        def reaches(k: int) -> bool:
            return (size := near(k)) is not None and size[1].total >= least

        if place > 0 and reaches(place - 1):
            smallest = near(bisect_left(range(place), True, key=reaches))
            best = smallest if smallest is not None and smallest[1].total == least else best
        return best

    def _beside(
        self, best: tuple[int, ParamCount], params: float, stride: int
    ) -> list[tuple[int, ParamCount]]:
        """The accepted sizes on each side of where N = ``params`` would be, by N = k·size^p."""
        size, n = best[0], best[1].total
        double = self._near(2 * size)
        power = 2.0
        if double is not None and double[0] > size and double[1].total > n:
            power = math.log(double[1].total / n) / math.log(double[0] / size)
        middle = size + stride * round((size * (params / n) ** (1 / power) - size) / stride)
        out = []
        for sign in (1, -1):
            for k in range(2 * _NEIGHBOURS):
                beside = middle + sign * stride * k
                if beside == size:
                    break
                if beside > 0 and (counted := self.count(beside)) is not None:
                    out.append((beside, counted))
                    break
        return out

    def grid(self) -> tuple[int, int]:
        """The smallest accepted size, and the step to the next one."""
        if self._grid is None:
            tried: Iterable[int] = (*range(1, _LARGEST_SCANNED + 1), *_LARGER_TRIED)
            accepted = list(islice((s for s in tried if self.count(s) is not None), 2))
            if accepted and accepted[0] > _LARGEST_SCANNED:
                steps = (2**k for k in range(accepted[0].bit_length()))
                beside = (accepted[0] + step for step in steps)
                accepted[1:] = list(islice((s for s in beside if self.count(s)), 1))
            if not accepted:
                reasons = list(dict.fromkeys(self.refusals.values()))
                raise ModelError(
                    f"model_size_param: {self.reference} accepts no {self.size_param} from 1 to "
                    f"{_LARGEST_SCANNED}, nor a power of two above. It says: {'; '.join(reasons[:2])}. "
                    "Check model_kwargs, or name sizes that work: sizes=[...]."
                )
            first, stride = accepted[0], accepted[-1] - accepted[0] or accepted[0]
            self._grid = first, stride
            small = self.count(first)
            larger = (self._near(first + steps * stride) for steps in _STEPS_TO_GROW)
            if small and all(n and n[0] > first and n[1].total <= small.total for n in larger):
                self._grid = None  # or the next search would take it
                raise ModelError(
                    f"model_size_param: N does not grow with {self.size_param}: {self.reference} has "
                    f"{small.total:,} parameters at {first}, and no more {_STEPS_TO_GROW[-1]} sizes on. "
                    "Name the argument that sets the size, or give sizes=[{...}, ...]."
                )
        return self._grid

    def _near(self, size: int) -> tuple[int, ParamCount] | None:
        """The accepted size nearest to ``size``."""
        _, stride = self.grid()
        power = 1 << max(size.bit_length() - 1, 0)
        steps = [size + sign * stride * k for k in range(_NEIGHBOURS) for sign in (1, -1)]
        for candidate in [*steps[1:4], power, 2 * power, *steps[4:]]:
            if candidate > 0 and (counted := self.count(candidate)) is not None:
                return candidate, counted
        return None
