"""Constants of a law that are given: held at a value, or with a prior."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from flops_fit.checks import is_number
from flops_fit.errors import InputError, InputTypeError
from flops_fit.fit.surface import Penalty, Points
from flops_fit.flops.functions import Floats
from flops_fit.laws.kappa import Hoffmann, Kappa
from flops_fit.laws.law import Law

CONSTANTS = ("E", "alpha", "beta", "kappa")
_HELD_SD = 1e-5  # of the log of a constant that is held, in a posterior
_STIFFNESS = 1e8  # of a held constant: a run's pull moves it by less than 1e-8 of itself
_ZERO = 1e-9  # that stands for zero in logs


@dataclass(frozen=True)
class Known:
    """Constants held at a value, and those with a mean and a standard deviation."""

    fixed: Mapping[str, float] = field(default_factory=dict)
    prior: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def penalty(self, points: Points, variance: float, weight: float) -> Penalty | None:
        """For the solver of the κ family: runs of noise ``variance`` that weigh ``weight`` in all."""
        if not (self.fixed or self.prior):
            return None
        unit = np.array([points.scale, 1.0, 1.0, 1.0])
        shift = np.array([points.shift, 0.0, 0.0, 0.0])
        target, stiffness = np.zeros(4), np.zeros(4)
        held = np.array([name in self.fixed for name in CONSTANTS])
        for i, name in enumerate(CONSTANTS):
            if name in self.fixed:
                target[i] = (self.fixed[name] + shift[i]) / unit[i]
                stiffness[i] = _STIFFNESS * weight / max(target[i], 0.01) ** 2
            elif name in self.prior:
                mean, sd = self.prior[name]
                target[i] = (mean + shift[i]) / unit[i]
                stiffness[i] = variance * (unit[i] / sd) ** 2
        return Penalty(target, stiffness, held)

    def of_any_form(self) -> Known:
        """What is known of E, which means the same in every form of law."""
        fixed = {n: v for n, v in self.fixed.items() if n == "E"}
        return Known(fixed, {n: v for n, v in self.prior.items() if n == "E"})

    def belief(self) -> Belief | None:
        """The same for a posterior, as a normal distribution of logs."""
        names = (*self.fixed, *self.prior)
        if not names:
            return None
        means = [*self.fixed.values(), *(mean for mean, _ in self.prior.values())]
        sds = [_HELD_SD] * len(self.fixed) + [sd / mean for mean, sd in self.prior.values()]
        return Belief(names, np.log(np.maximum(means, _ZERO)), np.diag(np.array(sds) ** -2.0))


@dataclass(frozen=True, eq=False)
class Belief:
    """A normal distribution of logs of constants that replaces their default priors."""

    names: tuple[str, ...]
    mean: Floats
    precision: Floats

    def with_plain(self, name: str, unit: float, shift: float = 0.0) -> Belief:
        """The same with one constant itself, shifted and in some unit, in place of its log."""
        if name not in self.names:
            return self
        i = self.names.index(name)
        mean, slope = self.mean.copy(), np.ones(len(self.names))
        mean[i] = np.exp(mean[i]) / unit
        slope[i] = 1 / max(mean[i], 1e-3)
        mean[i] += shift / unit
        return Belief(self.names, mean, self.precision * np.outer(slope, slope))

    def __add__(self, other: Belief | None) -> Belief:
        """Both, about different constants."""
        if other is None:
            return self
        from scipy.linalg import block_diag

        mean = np.concatenate([self.mean, other.mean])
        precision = block_diag(self.precision, other.precision)
        return Belief((*self.names, *other.names), mean, precision)


def check_known(
    fixed: Mapping[str, float] | None,
    prior: Mapping[str, tuple[float, float]] | None,
    form: type[Law] | None,
) -> Known:
    """``fixed`` and ``prior`` of :func:`flops_fit.fit.fit_runs`, where they are valid."""
    family = form in (None, Hoffmann, Kappa)
    may = CONSTANTS if form in (None, Kappa) else CONSTANTS[:3]
    names = may if form is None or family else form.parameters()
    known = Known(fixed or {}, prior or {})
    for what, example in (("fixed", "{'E': 1.6}"), ("prior", "{'E': (1.6, 0.1)}")):
        given = getattr(known, what)
        if not isinstance(given, Mapping):
            raise InputTypeError(f"{what}=: expected a dict such as {example}; got {given!r}.")
        for name in given:
            if name not in names:
                raise InputError(f"{what}=: expected constants of {list(names)}; got {name!r}.")
    for name, value in known.fixed.items():
        if not (is_number(value) and (value > 0 or (value == 0 and name == "E"))):
            raise InputError(f"fixed=: expected a positive number for {name}; got {value!r}.")
    for name, pair in known.prior.items():
        if not (isinstance(pair, tuple | list) and len(pair) == 2 and all(map(_positive, pair))):
            raise InputError(
                f"prior=: expected a mean and a standard deviation for {name}, both positive; got "
                f"{pair!r}."
            )
    if known.prior and not family:
        raise InputError("prior=: expected the additive or the κ-law; use fixed= with other laws.")
    if both := set(known.fixed) & set(known.prior):
        raise InputError(f"expected a constant in fixed= or in prior=; {sorted(both)} are in both.")
    return known


def _positive(value: object) -> bool:
    return is_number(value) and value > 0
