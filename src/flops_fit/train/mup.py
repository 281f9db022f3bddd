"""From a model class and its sizes to its maximal-update parametrization."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from flops_fit import rng
from flops_fit.errors import InputError, InputTypeError, ModelError
from flops_fit.fingerprint import digest
from flops_fit.model.spec import ModelSpec, Size
from flops_fit.objective import Objective
from flops_fit.records import canonical_json
from flops_fit.train.mup_parametrization import Parametrization, matching, rms
from flops_fit.train.mup_roles import WeightRole, find_roles, fits

if TYPE_CHECKING:
    from torch import nn


_BUILT = 5e7  # the largest base whose initial values are measured


@dataclass(frozen=True)
class Mup:
    """The options of ``parametrization="mup"``.

    Attributes
    ----------
    init
        Scale initial weights to the widths as well: those of the base size keep their root mean square,
        hidden ones have it ∝ 1/√fan_in, output ones ∝ 1/fan_in, all others that of the base. What
        begins at zero stays there. Off where a model initialises itself so, as torch's layers do for
        hidden weights.
    readout
        Multiply what enters an output layer by base_fan_in/fan_in, and train its weight at the
        whole rate. Under Adam it is the same as the rate alone, but for weights that are a table of
        the input too: those cannot be had otherwise.
    residual
        Names of the modules whose outputs are added to the residual stream, such as
        ``("blocks.*.proj", "blocks.*.down")``: these are multiplied by base_depth/depth, a depth being
        the number of modules that a pattern fits (CompleteP with α = 1, Dey et al. 2025,
        arXiv:2505.01618). For models that grow in depth.
    base
        The size at which rates are meant; by default the smallest that is planned. Name it to
        keep the ids of finished runs when a plan gets smaller sizes.
    """

    init: bool = False
    readout: bool = False
    residual: Sequence[str] = ()
    base: Size | None = None

    def __post_init__(self) -> None:
        for name in ("init", "readout"):
            if not isinstance(getattr(self, name), bool):
                raise InputTypeError(
                    f"Mup: expected {name} to be True or False; got {getattr(self, name)!r}."
                )
        names = self.residual
        if isinstance(names, str) or not all(isinstance(n, str) for n in names):
            raise InputTypeError(
                f'Mup: expected residual as names of modules, such as ("blocks.*.proj",); got {names!r}.'
            )
        object.__setattr__(self, "residual", tuple(names))

    def fingerprint(self, base: Size) -> str:
        """A hash of what decides how runs come out, beside the model's own code."""
        kept = dict(base) if isinstance(base, Mapping) else getattr(base, "item", lambda: base)()
        return digest(
            ["mup-1", canonical_json([self.init, self.readout, list(self.residual), kept])]
        )


ParametrizationLike = Literal["standard", "mup"] | Mup


def resolve_mup(asked: Any) -> Mup | None:
    """The options that were asked for; ``None`` for ``"standard"``."""
    if isinstance(asked, Mup):
        return asked
    if asked not in ("standard", "mup"):
        kind = InputError if isinstance(asked, str) else InputTypeError
        raise kind(
            f"parametrization: expected 'standard', 'mup' or flops_fit.Mup(...); got {asked!r}."
        )
    return Mup() if asked == "mup" else None


def parametrize(
    spec: ModelSpec, objective: Objective, batch: Any, sizes: Sequence[Size], mup: Mup
) -> Parametrization:
    """μP of a model class, found by building it at its base and at larger sizes.

    Parameters
    ----------
    spec
        The model.
    objective, batch
        How it is called, and with what, to trace it; ``None`` where there is no batch.
    sizes
        Those that are planned. Without a base in ``mup`` the smallest of them is the base.
    mup
        The options.

    Raises
    ------
    InputError
        There is one size alone.
    ModelError
        The sizes do not fit together, or a pattern of ``residual`` fits no module.
    """
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
    kinds, notes = find_roles(models, objective, batch)
    if mup.init:
        kinds = _with_rms(kinds, spec, base)
    roles = {kind.role for kind in kinds}
    told = [f"μP: {note}." for note in notes]
    if "tied" in roles and not mup.readout:
        names = ", ".join(kind.name for kind in kinds if kind.role == "tied")
        told.append(
            f"{names} is both a table of the input and the output layer: its rate cannot serve both at "
            "every width. Mup(readout=True) multiplies the output instead."
        )
    made = Parametrization(
        kinds,
        ", ".join(f"{k}={v}" for k, v in base.items())
        if isinstance(base, Mapping)
        else f"{spec.size_param or 'size'}={base}",
        mup.init,
        mup.readout,
        tuple((pattern, _depth(models[0], pattern)) for pattern in mup.residual),
        tuple(told),
    )
    for model in models[1:]:
        for pattern, _ in made.residual:
            _depth(model, pattern)
    made.readouts(models[0])
    return made


def _depth(model: nn.Module, pattern: str) -> int:
    found = len(matching(model, pattern))
    if not found:
        names = [name for name, _ in model.named_modules() if name]
        raise ModelError(
            f"parametrization: expected residual names that fit modules of the model; {pattern!r} fits "
            f"none of {', '.join(names[:6])}{', …' if len(names) > 6 else ''}."
        )
    return found


def _with_rms(kinds: tuple[WeightRole, ...], spec: ModelSpec, base: Size) -> tuple[WeightRole, ...]:
    """The kinds with the root mean squares of the values that the base begins with."""
    if spec.require(base).total > _BUILT:
        raise InputError(
            f"parametrization: init=True measures the initial values of the base; expected one of at most "
            f"{_BUILT:.0e} parameters, got {spec.require(base).total:,}. Give a smaller one as Mup(base=)."
        )
    with rng.kept("cpu"):
        rng.seed(0)
        named = dict(spec.build(base).named_parameters())
    return tuple(
        replace(k, rms=rms([p for n, p in named.items() if fits(n, k.name)])) for k in kinds
    )
