"""Count a model's FLOPs on the meta device: each operation by its closed form, from its shapes.

A multiply-add counts two; element-wise work is left out. An operation without a formula of this library
has torch's, or the user's own (``register_flop_formula``).
"""

from __future__ import annotations

import itertools
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flops_fit.flops.formulas import FORMULAS, KINDS, MATRIX, is_unknown_work
from flops_fit.lazy import nn, torch
from flops_fit.records import Findings
from flops_fit.text import listed

STRATA = 32  # draws over which single random numbers are spread evenly
_UNIFORM = ("aten.rand", "aten.uniform_", "aten.randint")
_UNSEEN_SHARE = 0.01  # of all weights, above which unseen ones are reported
_COPIES = ("_to_copy", "clone", "copy_", "cat", "stack", "contiguous")
_in_words = Findings(Path(__file__).with_name("notes.toml"))
LOOKUPS = ("embedding", "_embedding_bag", "index", "index_select", "gather")


class Weights:
    """Follows weights by their storage, through views and copies, to operations that use them."""

    def __init__(self, model: nn.Module | None) -> None:
        self._origins: dict[int, frozenset[str]] = {}
        self._alive: list[Any] = []  # an address is not used again while its owner lives
        self.sizes: dict[str, int] = {}
        self.parts: dict[str, int] = {}  # the length of the first axis
        self.used: set[str] = set()
        for name, parameter in getattr(model, "named_parameters", tuple)():
            if parameter.dim() > 1:
                self.sizes[name], self.parts[name] = parameter.numel(), parameter.shape[0]
                self._origins[storage(parameter)] = frozenset([name])
                self._alive.append(parameter)

    def pass_on(self, name: str, args: Any, kwargs: Any, out: Any) -> None:
        """Follow weights from the arguments of any other operation to its result ``out``."""
        origins = self.names(args, kwargs)
        if not origins:
            return
        if name.removeprefix("aten.") in LOOKUPS:
            self.used |= origins
            return
        if not name.startswith("aten."):
            return
        for tensor in tensors_in([out]):
            address = storage(tensor)
            if address not in self._origins and name.removeprefix("aten.") not in _COPIES:
                self.used |= origins  # element-wise, which no count holds
            self._origins[address] = self._origins.get(address, frozenset()) | origins
            self._alive.append(tensor)

    def names(self, args: Any, kwargs: Any) -> frozenset[str]:
        """The weights among the arguments of an operation."""
        if not self.sizes:
            return frozenset()
        tensors = tensors_in([*args, *kwargs.values()])
        return frozenset().union(*(self._origins.get(storage(t), frozenset()) for t in tensors))

    def unseen_note(self) -> list[str]:
        """A clause about weights that no known operation used, where they are over a hundredth."""
        unseen = {name: n for name, n in self.sizes.items() if name not in self.used}
        if sum(unseen.values()) <= _UNSEEN_SHARE * sum(self.sizes.values()):
            return []
        share = sum(unseen.values()) / sum(self.sizes.values())
        names = listed(sorted(unseen, key=lambda name: -unseen[name]), 3, ", ")
        return [_in_words("unseen", share=share, names=names).message]


def storage(tensor: Any) -> int:
    """What tensors that share memory have in common; -1 for what is no tensor."""
    return int(tensor.untyped_storage()._cdata) if hasattr(tensor, "untyped_storage") else -1


def tensors_in(values: Any) -> list[torch.Tensor]:
    """The dense tensors among the arguments or the results of an operation."""
    leaves = torch.utils._pytree.tree_leaves(values)
    return [v for v in leaves if isinstance(v, torch.Tensor) and v.layout == torch.strided]


# A backward pass multiplies once for the inputs and once for the weights: twice the forward pass,
# less where a first or frozen layer needs no gradient, more where a custom function of the user
# computes something again.
_LARGEST_BACKWARD_RATIO = 3.2


@dataclass(frozen=True)
class OpCount:
    """FLOPs of one operation: in the forward pass, in the backward pass, and computed again there."""

    kind: str
    forward: float = 0.0
    backward: float = 0.0
    recomputed: float = 0.0


@dataclass(frozen=True)
class TracedFlops:
    """FLOPs of one forward and one backward pass, and by operation in ``ops``.

    ``notes`` say what the trace could not see. ``recomputed`` are forward FLOPs that activation
    checkpointing computes again, in neither pass: saving memory does not change what a budget buys.
    """

    forward: float
    backward: float
    notes: tuple[str, ...] = ()
    ops: tuple[tuple[str, OpCount], ...] = ()
    recomputed: float = 0.0
    calls: Mapping[str, Sequence[float]] = field(default_factory=dict)  # positions, by weight

    @property
    def total(self) -> float:
        """Training FLOPs, both passes."""
        return self.forward + self.backward


class _Counts:
    """FLOPs so far, by operation and pass."""

    def __init__(self, model: nn.Module | None) -> None:
        self.flops: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self.kinds: dict[str, str] = {}
        self.unknown: dict[str, int] = defaultdict(int)
        self.calls: dict[str, list[float]] = defaultdict(list)
        self.weights = Weights(model)
        self.backward = False

    def see(
        self, name: str, flops: float | None, args: Any, kwargs: Any, out: Any, again: bool
    ) -> None:
        """Count one call; ``again`` marks a forward computation during the backward pass."""
        if flops is None:
            if is_unknown_work(name):
                self.unknown[name] += 1
            if not self.backward:
                self.weights.pass_on(name, args, kwargs, out)
            return
        # A complex multiply-add is four real ones.
        tensors = [a for a in args if hasattr(a, "is_complex")]
        is_complex = len(tensors) > 1 and all(t.is_complex() for t in tensors)
        part = "forward" if not self.backward else "recomputed" if again else "backward"
        self.flops[name][part] += flops * (4 if is_complex else 1)
        self.kinds[name] = KINDS.get(name, MATRIX if name.startswith("aten.") else name)
        if not self.backward and (names := self.weights.names(args, kwargs)):
            self.weights.used |= names
            sizes, parts = self.weights.sizes, self.weights.parts
            for weight in names:
                stacks = {t.shape[0] for t in tensors if t.numel() == sizes[weight]}
                # A weight that is stacked along another axis than its first has no experts.
                if name != "aten.bmm" or stacks <= {parts[weight]}:
                    self.calls[weight].append(flops / (2 * sum(sizes[n] for n in names)))

    def result(self) -> TracedFlops:
        ops = {name: OpCount(self.kinds[name], **parts) for name, parts in self.flops.items()}
        forward = float(sum(op.forward for op in ops.values()))
        backward = float(sum(op.backward for op in ops.values()))
        again = float(sum(op.recomputed for op in ops.values()))
        notes = []
        if self.unknown:
            calls = [f"{name} ({number}×)" for name, number in sorted(self.unknown.items())]
            names = listed(calls, 3, ", ")
            notes.append(_in_words("no_formula", names=names).message)
        notes += self.weights.unseen_note()
        for kind in dict.fromkeys(op.kind for op in ops.values()):
            ahead = sum(op.forward for op in ops.values() if op.kind == kind)
            back = sum(op.backward for op in ops.values() if op.kind == kind)
            if back > _LARGEST_BACKWARD_RATIO * ahead > 0:
                said = _in_words("costly_backward", kind=kind, ratio=back / ahead)
                notes.append(said.message)
        if again:
            notes.append(_in_words("recomputed", share=again / forward).message)
        return TracedFlops(
            forward, backward, tuple(notes), tuple(ops.items()), again, dict(self.calls)
        )


def trace_flops(
    forward: Callable[[], torch.Tensor], model: nn.Module | None = None, draw: int = 0
) -> TracedFlops:
    """Count the multiplications of ``forward()`` and of its backward pass, each by its closed form.

    ``forward`` runs a model, on the meta device or with values, and returns the scalar to differentiate.
    Multiply-adds count two; element-wise work is left out; attention is counted in full, causal or not;
    recomputed activations are counted apart. Weights of ``model`` that no known operation used are named
    in ``notes``. With ``draw``, one of many that begin at 1, random numbers for a whole tensor, as of
    dropout, count as one that is drawn, so that those drawn later depend neither on sizes nor on whether
    there are values; and uniform numbers drawn alone are spread evenly over each 32 draws.

    >>> import torch
    >>> layer = torch.nn.Linear(10, 20, device="meta")
    >>> x = torch.empty(5, 10, device="meta")
    >>> traced = trace_flops(lambda: layer(x).sum())
    >>> traced.forward == 2 * 5 * 10 * 20
    True
    """
    counts = _Counts(model)
    with each_operation(counts.see, draw):
        loss: Any = forward()
        counts.backward = True
        loss.backward()
    return counts.result()


def forward_flops(forward: Callable[[], Any], draw: int) -> dict[str, float]:
    """FLOPs of one draw of a forward pass alone, by operation and the shape of its last operand."""
    calls: dict[str, float] = defaultdict(float)

    def see(name: str, flops: float | None, args: Any, kwargs: Any, out: Any, again: bool) -> None:
        if flops is not None:
            calls[f"{name} {tuple(tensors_in(args)[-1].shape)}"] += flops

    with each_operation(see, draw):
        forward()
    return calls


def _uniform(place: int, draw: int) -> float:
    """The uniform number at a place of a draw, in a Latin hypercube of each ``STRATA`` draws.

    The mean of a sum of functions of single numbers is then known far better than from independent draws
    (McKay, Beckman and Conover 1979).
    """
    group, row = divmod(draw - 1, STRATA)
    numbers = np.random.default_rng((place, group))
    return float((numbers.permutation(STRATA)[row] + numbers.random()) / STRATA)


@contextmanager
def each_operation(see: Callable[..., None], draw: int = 0) -> Iterator[None]:
    """Shows every operation below autograd to ``see``; what is compiled or fused runs as it was written."""
    import torch  # itself: each operation asks for its attributes
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    known: dict[Any, tuple[str, Any, Any, bool, bool]] = {}
    places = itertools.count()

    def describe(func: Any) -> tuple[str, Any, Any, bool, bool]:
        packet = func._overloadpacket
        own, registered = FORMULAS.get(str(packet)), flop_registry.get(packet)
        whole = own is None and registered is None and func._can_decompose()
        draws = own is None and torch.Tag.nondeterministic_seeded in func.tags
        return str(packet), own, registered, whole, draws

    class Count(TorchDispatchMode):  # type: ignore[no-untyped-call]  # it has no types
        @classmethod
        def _should_skip_dynamo(cls) -> bool:  # which would wrap every call
            return False

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            kwargs = kwargs or {}
            if func not in known:
                known[func] = describe(func)
            name, own, registered, whole, draws = known[func]
            if whole:  # in inference mode composite operations arrive as such
                with self:
                    return func.decompose(*args, **kwargs)
            before = torch.get_rng_state() if draw and draws else None
            out = func(*args, **kwargs)
            if before is not None and getattr(out, "numel", int)() != 1:
                torch.set_rng_state(before)
                torch.rand((), device="cpu")
            elif before is not None and name in _UNIFORM:
                low, high = (0, 1, *(a for a in args if isinstance(a, int | float)))[-2:]
                low = 0 if len(args) < 3 else low  # randint(high, size)
                value = low + (high - low) * _uniform(next(places), draw)
                out.fill_(value if out.is_floating_point() else math.floor(value))
            flops = None if own is None else own(args, out)
            if flops is None and registered is not None:
                flops = float(registered(*args, **kwargs, out_val=out))
            # A backward pass runs without a graph; what runs with one in it is computed again.
            see(name, flops, args, kwargs, out, torch.is_grad_enabled())
            return out

    compiles = "torch._dynamo" in sys.modules  # else nothing is compiled, and its import is slow
    stance = torch.compiler.set_stance("force_eager") if compiles else nullcontext()
    attention = torch.backends.mha  # in evaluation it makes one operation of a layer
    fuses = attention.get_fastpath_enabled()
    attention.set_fastpath_enabled(False)
    try:
        with stance, Count():  # type: ignore[no-untyped-call]  # it has no types
            yield
    finally:
        attention.set_fastpath_enabled(fuses)
