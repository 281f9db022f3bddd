"""The maximal-update parametrization of a model class, found from the model at several sizes."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

from flops_fit import rng
from flops_fit.errors import InputError, InputTypeError, ModelError
from flops_fit.fingerprint import digest
from flops_fit.lazy import nn, torch
from flops_fit.model.spec import ModelSpec, Size
from flops_fit.mup.roles import WeightRole, find_roles, fits
from flops_fit.objective import Objective
from flops_fit.records import canonical_json
from flops_fit.text import listed

_MAX_BUILT_PARAMS = 5e7  # the largest base whose initial values are measured
_FACTOR_TOLERANCE = 1e-9  # a factor this near 1 changes nothing


@dataclass(frozen=True)
class Mup:
    """The options of ``parametrization="mup"``.

    ``init`` scales initial weights to the widths as well: the root mean square of the base size is kept,
    for hidden ones ∝ 1/√fan_in, for output ones ∝ 1/fan_in. Leave it off where a model already initialises
    itself so, as torch's layers do for hidden weights. ``readout`` multiplies the input of an output layer
    by base_fan_in/fan_in, and trains its weight at the full rate. Under Adam this only matters for weights
    that are also a table of the input. ``residual`` are names of the modules whose outputs are added to
    the residual stream, such as ``("blocks.*.proj", "blocks.*.down")``: these are multiplied by
    base_depth/depth, the number of modules that a pattern matches (CompleteP with α = 1, Dey et al. 2025,
    arXiv:2505.01618). ``base`` is the size that rates are given for, by default the smallest planned one.
    Name it to keep the ids of finished runs when a plan gets smaller sizes.
    """

    init: bool = False
    readout: bool = False
    residual: Sequence[str] = ()
    base: Size | None = None

    def __post_init__(self) -> None:
        for name, value in (("init", self.init), ("readout", self.readout)):
            if not isinstance(value, bool):
                raise InputTypeError(f"Mup: expected {name} to be True or False; got {value!r}.")
        names = self.residual
        if isinstance(names, str) or not all(isinstance(n, str) for n in names):
            raise InputTypeError(
                f'Mup: expected residual as names of modules, such as ("blocks.*.proj",); got {names!r}.'
            )
        object.__setattr__(self, "residual", tuple(names))

    def fingerprint(self, base: Size) -> str:
        """A hash of what decides how runs come out, beside the model's own code."""
        size = dict(base) if isinstance(base, Mapping) else getattr(base, "item", lambda: base)()
        options = [self.init, self.readout, list(self.residual), size]
        return digest(["mup-1", canonical_json(options)])


ParametrizationLike = Literal["standard", "mup"] | Mup


def resolve_mup(parametrization: Any) -> Mup | None:
    """The options of μP; ``None`` for ``"standard"``."""
    if isinstance(parametrization, Mup):
        return parametrization
    if parametrization not in ("standard", "mup"):
        kind = InputError if isinstance(parametrization, str) else InputTypeError
        raise kind(
            f"parametrization: expected 'standard', 'mup' or flops_fit.Mup(...); got {parametrization!r}."
        )
    return Mup() if parametrization == "mup" else None


@dataclass(frozen=True)
class Parametrization:
    """μP of one model class at any of its sizes, as plain data; scales the groups of AdamW.

    By Yang et al. 2022 (arXiv:2203.03466), table 3, for Adam and relative to a base size: hidden and
    output weights learn at × base_fan_in/fan_in, and their initial rms is ∝ 1/√fan_in and ∝ 1/fan_in;
    all else stays as at the base. With ``readout`` (their table 8) an output layer's input is
    multiplied by base_fan_in/fan_in instead. A group whose rate is scaled by s has its decay divided by
    s, as a step takes off lr·weight_decay (Wortsman et al. 2023, arXiv:2309.14322).

    ``roles`` are those of the parameters by name, ``residual`` the patterns with the number of modules
    that each matches at the ``base``, ``notes`` what could not be found out or has to be known.
    """

    roles: tuple[WeightRole, ...]
    base: str = ""
    init: bool = False
    readout: bool = False
    residual: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()

    def scale(self, model: nn.Module, groups: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Groups of a model of any size, cut further so that each has one scale of the rate."""
        names = {id(p): name for name, p in model.named_parameters()}
        merged: dict[tuple[float, float], list[torch.Tensor]] = {}
        for group in groups:
            for p in group["params"]:
                scale = self.rate(names[id(p)], tuple(p.shape))
                merged.setdefault((scale, group["weight_decay"] / scale), []).append(p)
        return [
            {"params": params, "lr_scale": scale, "weight_decay": decay}
            for (scale, decay), params in merged.items()
        ]

    def rate(self, name: str, shape: Sequence[int]) -> float:
        """The factor on the learning rate of a parameter of this name and shape."""
        weight = self.role_of(name, shape)
        scaled = weight.role == "hidden" or (weight.role == "output" and not self.readout)
        return 1 / weight.growth(shape) if scaled else 1.0

    def role_of(self, name: str, shape: Sequence[int]) -> WeightRole:
        """The role of a parameter of this name; ModelError if no examined size had one of its kind."""
        role = next((r for r in self.roles if fits(name, r.name)), None)
        if role is None:  # of a depth that was not examined: as its neighbours, if they agree
            near = [r for r in self.roles if _differ_in_a_number(name, r.name)]
            role = near[0] if len({(r.role, r.inputs, r.shape) for r in near}) == 1 else None
        if role is None or len(role.shape) != len(shape):
            raise ModelError(
                "parametrization: expected a model whose parameters are of the kinds seen at planning; "
                f"{name} of shape {tuple(shape)} is of none. Plan with sizes that have it too."
            )
        return role

    def apply(self, model: nn.Module) -> None:
        """Scale the initial weights and add the multipliers, in place."""
        powers = {"hidden": 0.5, "output": 0.0 if self.readout else 1.0}
        with torch.no_grad():
            for name, p in model.named_parameters() if self.init else ():
                weight, now = self.role_of(name, p.shape), _rms([p])
                if weight.rms is not None and now > 0:
                    growth = weight.growth(p.shape) ** -powers.get(weight.role, 0.0)
                    factor = weight.rms * growth / now
                    if abs(factor - 1) > _FACTOR_TOLERANCE:
                        p.mul_(factor)
        for module, factor in self.readouts(model):
            if factor != 1:
                module.register_forward_pre_hook(lambda _, args, s=factor: _scaled(args, s))
        for pattern, base_depth in self.residual:
            modules = matching(model, pattern)
            for module in modules if len(modules) != base_depth else ():
                scale = base_depth / len(modules)
                module.register_forward_hook(lambda _, args, out, s=scale: _scaled(out, s))

    def readouts(self, model: nn.Module) -> list[tuple[nn.Module, float]]:
        """The output layers whose input is multiplied, each with its factor; none without ``readout``."""
        weights = model.named_parameters() if self.readout else ()
        roles = [(name, p, self.role_of(name, p.shape)) for name, p in weights]
        return [
            (_layer_of(model, p, name), 1 / role.growth(p.shape))
            for name, p, role in roles
            if role.role in ("output", "tied")
        ]

    def width(self, model: nn.Module) -> float:
        """How many times wider than the base a model is: the geometric mean over fan-ins."""
        logs = [
            math.log(role.growth(p.shape))
            for name, p in model.named_parameters()
            if (role := self.role_of(name, p.shape)).role in ("hidden", "output", "tied")
        ]
        return round(math.exp(math.fsum(logs) / len(logs)), 9) if logs else 1.0

    def __str__(self) -> str:
        counts = sorted(Counter(role.role for role in self.roles).items())
        listed = ", ".join(f"{number} {role}" for role, number in counts)
        return f"μP from the base {self.base}: kinds of parameters by role: {listed}."


def parametrize(
    spec: ModelSpec, objective: Objective, batch: Any, sizes: Sequence[Size], mup: Mup
) -> Parametrization:
    """μP of a model class, found by building it at its base (the smallest of ``sizes``) and above."""
    ordered = sorted({repr(s): s for s in sizes}.values(), key=lambda s: spec.require(s).total)
    base = ordered[0] if mup.base is None else mup.base
    others = [s for s in ordered if repr(s) != repr(base)]
    if not others:
        raise InputError(
            f"parametrization: expected two sizes or more, to see what grows; got {base!r} alone. "
            "Give more sizes, or the base that rates are meant for, as Mup(base=)."
        )
    examined = [base, *{repr(s): s for s in (others[len(others) // 2], others[-1])}.values()]
    models = [spec.build_meta(size) for size in examined]
    roles, unknowns = find_roles(models, objective, batch)
    if mup.init:
        roles = _with_rms(roles, spec, base)
    notes = [f"μP: {note}." for note in unknowns]
    tied = ", ".join(weight.name for weight in roles if weight.role == "tied")
    if tied and not mup.readout:
        notes.append(
            f"{tied} is both a table of the input and the output layer: its rate cannot serve both at "
            "every width. Mup(readout=True) multiplies the output instead."
        )
    named = base if isinstance(base, Mapping) else {spec.size_param or "size": base}
    text = ", ".join(f"{k}={v}" for k, v in named.items())
    depths = [[(pattern, _depth(m, pattern)) for pattern in mup.residual] for m in models]
    own = Parametrization(roles, text, mup.init, mup.readout, tuple(depths[0]), tuple(notes))
    own.readouts(models[0])  # refuses weights that no layer of their own holds
    return own


def _scaled(value: Any, factor: float) -> Any:
    """A tensor times a factor, or a tuple whose first is: attention returns its weights too."""
    return (value[0] * factor, *value[1:]) if isinstance(value, tuple) else value * factor


def matching(model: nn.Module, pattern: str) -> list[nn.Module]:
    """The modules whose names match a pattern such as ``"blocks.*.proj"``, part by part."""
    expected = pattern.split(".")
    named = ((name.split("."), module) for name, module in model.named_modules())
    alike = ((parts, module) for parts, module in named if len(parts) == len(expected))
    return [module for parts, module in alike if all(map(fnmatchcase, parts, expected))]


def _layer_of(model: nn.Module, weight: torch.Tensor, name: str) -> nn.Module:
    """The layer that multiplies by ``weight`` and does nothing else."""
    for module in model.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) or any(module.children()):
            continue
        own = dict(module.named_parameters(recurse=False))
        alone = set(own) <= {"weight", "bias"} and module is not model
        if alone and any(p is weight for p in own.values()):
            return module
    raise ModelError(
        "parametrization: readout=True multiplies the input of the module that holds an output "
        f"weight; expected {name} in a layer of its own such as torch.nn.Linear, and it is used in "
        "the code of a larger module. Move it into one, or leave readout=True out."
    )


def _depth(model: nn.Module, pattern: str) -> int:
    depth = len(matching(model, pattern))
    if not depth:
        names = [name for name, _ in model.named_modules() if name]
        raise ModelError(
            "parametrization: expected residual names that fit modules of the model; "
            f"{pattern!r} fits none of {listed(names, 6, ', ')}."
        )
    return depth


def _with_rms(roles: tuple[WeightRole, ...], spec: ModelSpec, base: Size) -> tuple[WeightRole, ...]:
    """The roles with the root mean squares of the initial values at the base."""
    if (total := spec.require(base).total) > _MAX_BUILT_PARAMS:
        raise InputError(
            "parametrization: init=True measures the initial values of the base; expected at most "
            f"{_MAX_BUILT_PARAMS:.0e} parameters, got {total:,}. Give a smaller one as Mup(base=)."
        )
    with rng.kept("cpu"):
        rng.seed(0)
        named = dict(spec.build(base).named_parameters())
    return tuple(
        replace(r, rms=_rms([p for n, p in named.items() if fits(n, r.name)])) for r in roles
    )


def _differ_in_a_number(name: str, other: str) -> bool:
    pairs = itertools.zip_longest(name.split("."), other.split("."), fillvalue="")
    different = [pair for pair in pairs if pair[0] != pair[1]]
    return len(different) == 1 and all(part.isdigit() for part in different[0])


def _rms(tensors: Sequence[Any]) -> float:
    squares = math.fsum(float(p.detach().double().square().sum()) for p in tensors)
    return math.sqrt(squares / max(sum(p.numel() for p in tensors), 1))
