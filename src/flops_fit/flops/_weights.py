"""Which weights a trace saw used: those that it did not may be work that it did not count."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Weights", "unseen_note"]

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
