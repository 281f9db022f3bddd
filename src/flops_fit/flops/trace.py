"""Count a model by running it where nothing is computed: every operation by its closed form."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flops_fit.flops.ops import FORMULAS, KINDS, MATRIX, is_unknown_work

if TYPE_CHECKING:
    from torch import Tensor, nn


_TOLD = 0.01  # the share of weights from which on unseen ones are told
_SHOWN = 3
_COPIES = ("_to_copy", "clone", "copy_", "cat", "stack", "contiguous")
_LOOKUPS = ("embedding", "_embedding_bag", "index", "index_select", "gather")


class Weights:
    """Follows parameters of two dimensions or more from operation to operation by their storage.

    Views, casts and copies pass a weight on. A weight is used where it, or a copy of it, enters an
    operation that is counted, looked up in, or element-wise. What is left is unused, or went to
    where the trace does not see.
    """

    def __init__(self, model: nn.Module | None) -> None:
        self._origins: dict[int, frozenset[str]] = {}
        self._alive: list[Any] = []  # an address is not used again while its owner lives
        self.sizes: dict[str, int] = {}
        self.used: set[str] = set()
        named = getattr(model, "named_parameters", None)
        parameters = () if named is None else named()
        for name, parameter in parameters:
            if parameter.dim() > 1:
                self.sizes[name] = parameter.numel()
                self._origins[_address(parameter)] = frozenset([name])
                self._alive.append(parameter)

    def multiply(self, args: Any, kwargs: Any) -> None:
        """A counted operation took these."""
        self.used |= self._names(args, kwargs)

    def pass_on(self, name: str, args: Any, kwargs: Any, out: Any) -> None:
        """Another operation took these and made ``out``."""
        origins = self._names(args, kwargs)
        if not origins:
            return
        if name.removeprefix("aten.") in _LOOKUPS:
            self.used |= origins
            return
        if not name.startswith("aten."):
            return
        for tensor in _tensors([out]):
            address = _address(tensor)
            if address not in self._origins and name.removeprefix("aten.") not in _COPIES:
                self.used |= origins  # element-wise, which no count holds
            self._origins[address] = self._origins.get(address, frozenset()) | origins
            self._alive.append(tensor)

    def _names(self, args: Any, kwargs: Any) -> frozenset[str]:
        if not self.sizes:
            return frozenset()
        found: frozenset[str] = frozenset()
        for tensor in _tensors([*args, *kwargs.values()]):
            found |= self._origins.get(_address(tensor), frozenset())
        return found

    @property
    def unseen(self) -> dict[str, int]:
        """Weights that nothing known has used, with their sizes."""
        return {name: n for name, n in self.sizes.items() if name not in self.used}


def unseen_note(weights: Weights) -> tuple[str, ...]:
    """A clause about weights that were not seen, where they are more than a hundredth."""
    unseen = weights.unseen
    if sum(unseen.values()) <= _TOLD * sum(weights.sizes.values()):
        return ()
    share = sum(unseen.values()) / sum(weights.sizes.values())
    names = sorted(unseen, key=lambda name: -unseen[name])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (
        f"{share:.0%} of the weights were in no operation that is known ({', '.join(names[:_SHOWN])}"
        f"{more}): they are unused, or used by code that the trace cannot see into. In the second "
        "case the count is too low; give flops= a function",
    )


def _address(tensor: Any) -> int:
    return int(tensor.untyped_storage()._cdata)


def _tensors(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _tensors(value)
        elif hasattr(value, "untyped_storage"):
            yield value


# A backward pass multiplies once for the inputs and once for the weights: twice the forward pass,
# less where a first or frozen layer needs no gradient, more where a function of the user's own
# computes something anew.
_MOST_BACKWARD = 3.2


@dataclass(frozen=True)
class OpCount:
    """FLOPs of one operation: in the forward pass, in the backward pass, and computed again there."""

    kind: str
    forward: float = 0.0
    backward: float = 0.0
    recomputed: float = 0.0


@dataclass(frozen=True)
class TracedFlops:
    """FLOPs of one forward and one backward pass.

    Attributes
    ----------
    forward, backward
        FLOPs of the passes.
    notes
        What could not be seen, or what was left out, one clause each.
    ops
        Counts by operation, such as ``"aten.addmm"``.
    recomputed
        Forward FLOPs that activation checkpointing computes a second time, in neither pass: C
        counts the model's work, so that saving memory does not change what a budget buys.
    """

    forward: float
    backward: float
    notes: tuple[str, ...] = ()
    ops: tuple[tuple[str, OpCount], ...] = ()
    recomputed: float = 0.0

    @property
    def total(self) -> float:
        """Training FLOPs, both passes."""
        return self.forward + self.backward


class _Tally:
    """What was seen so far, by operation and pass."""

    def __init__(self, model: nn.Module | None) -> None:
        self.flops: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self.kinds: dict[str, str] = {}
        self.unknown: dict[str, int] = defaultdict(int)
        self.weights = Weights(model)
        self.backward = False

    def see(self, name: str, formula: Any, args: Any, kwargs: Any, out: Any, again: bool) -> None:
        """One call. ``again``: a forward computation in the course of the backward pass."""
        if formula is None:
            if is_unknown_work(name):
                self.unknown[name] += 1
            if not self.backward:
                self.weights.pass_on(name, args, kwargs, out)
            return
        flops = formula(args, kwargs, out) * _complex_factor(args)
        part = "forward" if not self.backward else "recomputed" if again else "backward"
        self.flops[name][part] += flops
        self.kinds[name] = KINDS.get(name, MATRIX if name.startswith("aten.") else name)
        if not self.backward:
            self.weights.multiply(args, kwargs)

    def result(self) -> TracedFlops:
        ops = tuple(
            (name, OpCount(self.kinds[name], **parts)) for name, parts in self.flops.items()
        )
        forward, backward, again = (
            float(sum(getattr(op, part) for _, op in ops))
            for part in ("forward", "backward", "recomputed")
        )
        notes = (*_unknown(self.unknown), *unseen_note(self.weights), *_ratios(ops))
        if again:
            notes += (
                f"the backward pass computes {again / forward:.0%} of the forward pass again "
                "(activation checkpointing): that costs time and is left out of C",
            )
        return TracedFlops(forward, backward, notes, ops, again)


def trace_flops(forward: Callable[[], Tensor], model: nn.Module | None = None) -> TracedFlops:
    """Count the multiplications of ``forward()`` and of its backward pass, each by its closed form.

    Multiply-adds count two; element-wise work is left out; attention is counted in full, causal or
    not. What autograd leaves out counts nothing: a frozen layer needs no gradient of its weights,
    and what runs under ``no_grad``, such as a teacher, has no backward pass. Recomputed
    activations are counted apart.

    Parameters
    ----------
    forward
        Runs a model on the meta device and returns the scalar that is differentiated.
    model
        Its weights are followed: those that no counted operation multiplied are told by name.

    Examples
    --------
    >>> import torch
    >>> layer = torch.nn.Linear(10, 20, device="meta")
    >>> x = torch.empty(5, 10, device="meta")
    >>> traced = trace_flops(lambda: layer(x).sum())
    >>> traced.forward == 2 * 5 * 10 * 20
    True
    """
    tally = _Tally(model)
    with _mode(tally):
        loss: Any = forward()
        tally.backward = True
        loss.backward()
    return tally.result()


def _mode(tally: _Tally) -> Any:
    """A dispatch mode that shows every operation below autograd to the tally."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    def formula_for(packet: Any, name: str) -> Any:
        own = FORMULAS.get(name)
        if own is not None:
            return lambda args, kwargs, out: own(args, out)
        registered = flop_registry.get(packet)
        if registered is None:
            return None
        return lambda args, kwargs, out: float(registered(*args, **kwargs, out_val=out))

    class Count(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            kwargs = kwargs or {}
            packet = func._overloadpacket
            name = str(packet)
            formula = formula_for(packet, name)
            if formula is None:
                # In inference mode composite operations arrive whole.
                with self:
                    parts = func.decompose(*args, **kwargs)
                if parts is not NotImplemented:
                    return parts
            out = func(*args, **kwargs)
            # A backward pass runs without a graph; what runs with one in it is computed again.
            tally.see(name, formula, args, kwargs, out, torch.is_grad_enabled())
            return out

    return Count()  # type: ignore[no-untyped-call]


def _complex_factor(args: Iterable[Any]) -> int:
    """A complex multiply-add is four real ones."""
    tensors = [a for a in args if hasattr(a, "is_complex")]
    return 4 if len(tensors) > 1 and all(t.is_complex() for t in tensors) else 1


def _unknown(unknown: dict[str, int]) -> tuple[str, ...]:
    if not unknown:
        return ()
    names = [f"{name} ({calls}×)" for name, calls in sorted(unknown.items())]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (
        f"no formula is known for {', '.join(names[:_SHOWN])}{more}, which count as nothing; register "
        "one with torch.utils.flop_counter.register_flop_formula, or give flops= a function",
    )


def _ratios(ops: tuple[tuple[str, OpCount], ...]) -> tuple[str, ...]:
    """Kinds of operation whose backward pass is no two or three forward passes."""
    kinds: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for _, op in ops:
        kinds[op.kind][0] += op.forward
        kinds[op.kind][1] += op.backward
    return tuple(
        f"the backward pass of {kind} costs {back / ahead:.3g} times its forward pass, where 2 is "
        "usual: a function of the model's own computes something again there"
        for kind, (ahead, back) in kinds.items()
        if back > _MOST_BACKWARD * ahead > 0
    )
