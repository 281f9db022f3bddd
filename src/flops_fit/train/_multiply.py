"""Multipliers on what enters or leaves a module, put there by hooks and so without the user's code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from flops_fit.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["holder_of", "matching", "multiply_input", "multiply_output"]


@dataclass(frozen=True)
class _OfInput:
    factor: float

    def __call__(self, module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0] * self.factor, *args[1:])


@dataclass(frozen=True)
class _OfOutput:
    factor: float

    def __call__(self, module: Any, args: Any, output: Any) -> Any:
        if isinstance(output, tuple):  # attention gives its weights beside what it adds
            return (output[0] * self.factor, *output[1:])
        return output * self.factor


def multiply_input(module: nn.Module, factor: float) -> None:
    """From here on the first argument of ``module`` is multiplied by ``factor``."""
    if factor != 1:
        module.register_forward_pre_hook(_OfInput(factor))


def multiply_output(module: nn.Module, factor: float) -> None:
    """From here on what ``module`` returns, or the first of it, is multiplied by ``factor``."""
    if factor != 1:
        module.register_forward_hook(_OfOutput(factor))


def holder_of(model: nn.Module, weight: Tensor, name: str) -> nn.Module:
    """The layer that multiplies by ``weight`` and does nothing else.

    Raises
    ------
    ModelError
        There is none: the weight is multiplied somewhere in the code of a larger module.
    """
    from torch import nn

    for module in model.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) or any(module.children()):
            continue
        own = dict(module.named_parameters(recurse=False))
        alone = set(own) <= {"weight", "bias"} and module is not model
        if alone and any(p is weight for p in own.values()):
            return module
    raise ModelError(
        f"parametrization: readout=True multiplies the input of the module that holds an output "
        f"weight; expected {name} in a layer of its own such as torch.nn.Linear, and it is used in "
        "the code of a larger module. Move it into one, or leave readout=True out."
    )


def matching(model: nn.Module, pattern: str) -> list[nn.Module]:
    """The modules whose names fit a pattern such as ``"blocks.*.proj"``, part by part."""
    asked = pattern.split(".")

    def fits(parts: Sequence[str]) -> bool:
        return len(parts) == len(asked) and all(map(fnmatchcase, parts, asked))

    return [module for name, module in model.named_modules() if fits(name.split("."))]
