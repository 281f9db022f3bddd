"""Over which of its dimensions a weight is summed, traced in the forward pass."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


_LOOKUPS = ("embedding", "_embedding_bag", "index", "index_select", "gather")

# The operands of a product: position among the arguments, and the dimension that is summed over.
_PRODUCTS: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {
    "mm": ((0, 1), (1, 0)),
    "bmm": ((0, 2), (1, 1)),
    "mv": ((0, 1), (1, 0)),
    "dot": ((0, 0), (1, 0)),
    "addmm": ((1, 1), (2, 0)),
    "_addmm_activation": ((1, 1), (2, 0)),
    "baddbmm": ((1, 2), (2, 1)),
    "addbmm": ((1, 2), (2, 1)),
    "addmv": ((1, 1), (2, 0)),
    "_grouped_mm": ((0, -1), (1, -2)),
}
_CONVOLUTIONS = ("convolution", "_convolution", "convolution_overrideable")

Layout = tuple[tuple[int, int, frozenset[int]], ...]  # stride, length, dimensions of the parameter


@dataclass
class Uses:
    """How each parameter enters a forward pass, by its name."""

    # The dimensions that products with activations sum over.
    summed: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    looked_up: set[str] = field(default_factory=set)  # tables: rows of them are taken by index
    met: set[str] = field(default_factory=set)  # those that share an operation with an activation
    # A dimension is summed over in part, as in a matrix stored as a vector: the fan-in is unknown.
    mixed: set[str] = field(default_factory=set)


def trace_uses(forward: Callable[[], Any], model: nn.Module, batch: Iterable[Any]) -> Uses:
    """Run ``forward()`` and record every operation below autograd that a parameter is part of.

    A parameter is followed by its storage, a dimension by its stride; only products with what depends on
    ``batch`` count.
    """
    from torch.utils._python_dispatch import TorchDispatchMode

    tracer = _Tracer(model, batch)

    class Record(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            out = func(*args, **(kwargs or {}))
            name = str(func._overloadpacket).removeprefix("aten.").rstrip("_")
            tracer.record(name, args, kwargs or {}, out)
            return out

    with Record():  # type: ignore[no-untyped-call]
        forward()
    return tracer.uses


class _Tracer:
    """Which storages hold parameters, and which depend on the batch."""

    def __init__(self, model: nn.Module, batch: Iterable[Any]) -> None:
        self.uses = Uses()
        self._layouts: dict[int, list[tuple[str, Layout]]] = {}
        self._alive: list[Any] = []  # an address is not used again while its owner lives
        self._data = {self._address(tensor) for tensor in batch}
        for name, p in model.named_parameters():
            own = tuple((s, n, frozenset([i])) for i, (s, n) in _steps(p))
            self._layouts[self._address(p)] = [(name, own)]
        self._own = frozenset(self._layouts)

    def record(self, name: str, args: Sequence[Any], kwargs: Any, out: Any) -> None:
        """One operation."""
        tensors = list(_tensors([*args, *kwargs.values()]))
        weights = [t for t in tensors if _storage(t) in self._layouts]
        of_data = any(_storage(t) in self._data for t in tensors)
        if weights and of_data:
            self.uses.met |= {name for t in weights for name, _ in self._layouts[_storage(t)]}
            for tensor, dims in _summed(name, args):
                self._add_product(tensor, dims)
        if weights and name in _LOOKUPS:
            self.uses.looked_up |= {n for n, _ in self._layouts.get(_storage(args[0]), [])}
        results = [t for t in _tensors([out]) if _storage(t) not in self._own]
        for tensor in results:
            if of_data or (weights and name in _LOOKUPS):
                self._data.add(self._address(tensor))
                self._layouts.pop(_storage(tensor), None)  # it may be written in place
            elif weights and _storage(tensor) not in self._layouts:
                self._derive(tensor, weights)

    def _add_product(self, tensor: Any, dims: Iterable[int]) -> None:
        """A product sums over these dimensions of a tensor that may be, or view, a parameter."""
        dims = {d % tensor.dim() for d in dims}
        for name, layout in self._layouts.get(_storage(tensor), []):
            summed, others = set[int](), set[int]()
            for i, step in _steps(tensor):
                (summed if i in dims else others).update(_within(step, layout))
            self.uses.summed[name] |= summed
            if summed & others:
                self.uses.mixed.add(name)

    def _derive(self, result: Any, weights: Sequence[Any]) -> None:
        """What is computed from parameters alone has their dimensions, aligned at the last one."""
        layouts: list[tuple[str, Layout]] = []
        for weight in weights:
            steps, shift = dict(_steps(weight)), result.dim() - weight.dim()
            for name, layout in self._layouts[_storage(weight)]:
                aligned = tuple(
                    (stride, length, frozenset(_within(steps[i - shift], layout)))
                    for i, (stride, length) in _steps(result)
                    if steps.get(i - shift, (0, 0))[1] == length
                )
                layouts.append((name, aligned))
        self._layouts[self._address(result)] = layouts

    def _address(self, tensor: Any) -> int:
        self._alive.append(tensor)
        return _storage(tensor)


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


def _storage(tensor: Any) -> int:
    return int(tensor.untyped_storage()._cdata) if hasattr(tensor, "untyped_storage") else -1


def _tensors(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _tensors(value)
        elif hasattr(value, "untyped_storage"):
            yield value


def summed_by_layers(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The dimensions that torch's own layers sum over, by the names of their weights."""
    from torch import nn

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
