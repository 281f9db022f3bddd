"""Mixtures of experts: layers of which a token passes a few."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flops_fit.model._torch import torch_or_error

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Experts", "find_experts"]


@dataclass(frozen=True)
class Experts:
    """A layer of equal experts and a router: its name, how many, and their parameters."""

    name: str
    number: int
    params: int


def find_experts(model: Any) -> tuple[Experts, ...]:
    """Modules that hold n equal parts and a linear layer with n outputs to choose among them.

    The parts are a ``ModuleList`` of modules of one class and shape, or parameters of three
    dimensions whose first is n. What a router does is not looked into: it may send each token to
    every expert.

    Examples
    --------
    >>> from torch import nn
    >>> layer = nn.Module()
    >>> layer.router = nn.Linear(8, 4)
    >>> layer.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
    >>> find_experts(layer)
    (Experts(name='experts', number=4, params=288),)
    """
    nn = torch_or_error().nn
    if not isinstance(model, nn.Module):
        return ()
    found = []
    for path, module in model.named_modules():
        children = dict(module.named_children())
        chosen = {c.out_features for c in children.values() if isinstance(c, nn.Linear)} - {1}
        for name, child in children.items():
            number = _equal_parts(nn, child)
            if number in chosen:
                params = sum(p.numel() for p in child.parameters())
                found.append(Experts(f"{path}.{name}".lstrip("."), number, params))
    return tuple(found)


def _equal_parts(nn: Any, module: nn.Module) -> int:
    """How many equal parts a module is, 0 where it is not made of such."""
    if isinstance(module, nn.ModuleList):
        shapes = {(type(m), tuple(tuple(p.shape) for p in m.parameters())) for m in module}
        return len(module) if len(shapes) == 1 and len(module) > 1 else 0
    own = [p for p in module.parameters(recurse=False) if p.dim() == 3]
    firsts = {p.shape[0] for p in own}
    return int(firsts.pop()) if len(firsts) == 1 else 0
