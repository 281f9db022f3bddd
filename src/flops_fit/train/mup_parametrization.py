"""The maximal-update parametrization: one learning rate for every width, as plain data."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from flops_fit.errors import ModelError
from flops_fit.hparams import HParams
from flops_fit.train.mup_roles import WeightRole, fits
from flops_fit.train.optimizer import Groups, decay_groups

if TYPE_CHECKING:
    from torch import Tensor, nn


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


_SAME = 1e-9  # a factor so near 1 is one


@dataclass(frozen=True)
class Parametrization:
    """μP of one model class at any of its sizes, as plain data; makes the groups of AdamW.

    Yang et al. 2022 (arXiv:2203.03466), table 3, for Adam, relative to a base size:

    ========================  =========================  ==================
    role                      learning rate              initial rms
    ========================  =========================  ==================
    hidden                    × base_fan_in/fan_in       ∝ 1/√fan_in
    output                    × base_fan_in/fan_in       ∝ 1/fan_in
    input, vector, fixed      × 1                        constant
    tied                      × 1                        constant
    ========================  =========================  ==================

    With ``readout`` (their table 8) an output layer's input is multiplied by base_fan_in/fan_in
    instead, and its weight is treated as an input. AdamW takes lr·weight_decay off a weight per step,
    so a group whose rate is scaled by s has its decay divided by s: what a step takes off does not
    depend on the width (Wortsman et al. 2023, arXiv:2309.14322). Adam's ε is left as it is; it matters
    where gradients come near it.

    Attributes
    ----------
    kinds
        The parameters by name, with their roles.
    base
        The base size, in words.
    init, readout
        As of :class:`Mup`.
    residual
        Patterns, each with the number of modules that it fits at the base.
    notes
        What could not be found out, or has to be known, in sentences.
    """

    kinds: tuple[WeightRole, ...]
    base: str = ""
    init: bool = False
    readout: bool = False
    residual: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()

    def __call__(self, model: Any, hparams: HParams) -> Groups:
        """Groups of a model of any size: what decays is as of ``decay_groups``."""
        names = {id(p): name for name, p in model.named_parameters()}
        merged: dict[tuple[float, float], list[Tensor]] = {}
        for group in decay_groups(model, hparams):
            for p in group["params"]:
                scale = self.rate(names[id(p)], tuple(p.shape))
                merged.setdefault((scale, group["weight_decay"] / scale), []).append(p)
        return [
            {"params": params, "lr_scale": scale, "weight_decay": decay}
            for (scale, decay), params in merged.items()
        ]

    def rate(self, name: str, shape: Sequence[int]) -> float:
        """What the learning rate of a parameter of this name and shape is multiplied by."""
        kind = self.kind(name, shape)
        slowed = kind.role == "hidden" or (kind.role == "output" and not self.readout)
        return 1 / kind.growth(shape) if slowed else 1.0

    def kind(self, name: str, shape: Sequence[int]) -> WeightRole:
        """What a parameter of this name is.

        Raises
        ------
        ModelError
            None of the sizes that were examined had one of its kind.
        """
        found = next((kind for kind in self.kinds if fits(name, kind.name)), None)
        if found is None:  # of a depth that was not examined: as its neighbours are, if they agree
            near = [kind for kind in self.kinds if _differ_in_a_number(name, kind.name)]
            found = near[0] if len({(k.role, k.inputs, k.shape) for k in near}) == 1 else None
        if found is None or len(found.shape) != len(shape):
            raise ModelError(
                f"parametrization: expected a model whose parameters are of the kinds seen at planning; "
                f"{name} of shape {tuple(shape)} is of none. Plan with sizes that have it too."
            )
        return found

    def apply(self, model: nn.Module) -> None:
        """Scale the initial weights and put the multipliers in, in place."""
        import torch

        if self.init:
            with torch.no_grad():
                for name, p in model.named_parameters():
                    self._scale(p, self.kind(name, p.shape))
        for module, factor in self.readouts(model):
            multiply_input(module, factor)
        for pattern, before in self.residual:
            found = matching(model, pattern)
            for module in found:
                multiply_output(module, before / len(found))

    def readouts(self, model: nn.Module) -> list[tuple[nn.Module, float]]:
        """The output layers whose input is multiplied, each with its factor; none without ``readout``.

        Raises
        ------
        ModelError
            The weight of one is multiplied in the code of a larger module.
        """
        out = []
        for name, p in model.named_parameters() if self.readout else ():
            kind = self.kind(name, p.shape)
            if kind.role in ("output", "tied"):
                out.append((holder_of(model, p, name), 1 / kind.growth(p.shape)))
        return out

    def width(self, model: nn.Module) -> float:
        """How many times wider than the base a model is: the geometric mean of what weights sum over."""
        grown = [
            math.log(kind.growth(p.shape))
            for name, p in model.named_parameters()
            if (kind := self.kind(name, p.shape)).role in ("hidden", "output", "tied")
        ]
        return round(math.exp(math.fsum(grown) / len(grown)), 9) if grown else 1.0

    def __str__(self) -> str:
        roles = Counter(kind.role for kind in self.kinds)
        listed = ", ".join(f"{number} {role}" for role, number in sorted(roles.items()))
        return f"μP from the base {self.base}: kinds of parameters by role: {listed}."

    def _scale(self, p: Tensor, kind: WeightRole) -> None:
        if kind.rms is None:
            return
        power = {"hidden": 0.5, "output": 0.0 if self.readout else 1.0}.get(kind.role, 0.0)
        now = rms([p])
        if now > 0:
            factor = kind.rms * kind.growth(p.shape) ** -power / now
            if abs(factor - 1) > _SAME:
                p.mul_(factor)


def _differ_in_a_number(name: str, other: str) -> bool:
    pairs = list(zip(name.split("."), other.split("."), strict=False))
    apart = [(a, b) for a, b in pairs if a != b]
    same_length = name.count(".") == other.count(".")
    return same_length and len(apart) == 1 and all(part.isdigit() for part in apart[0])


def rms(tensors: Sequence[Any]) -> float:
    """The root mean square of all values together."""
    squares = math.fsum(float(p.detach().double().square().sum()) for p in tensors)
    return math.sqrt(squares / max(sum(p.numel() for p in tensors), 1))
