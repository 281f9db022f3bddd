"""The rule for learning rate, batch and weight decay that runs say, and losses freed of them."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from flops_fit.errors import InputError, TableError, check_number
from flops_fit.fit.intervals import Estimate, Interval, check_level
from flops_fit.fit.solver import finding
from flops_fit.fit.valley import (
    CURVATURES,
    Regret,
    Valley,
    ValleyPrior,
    bends,
    fit_valley,
    form_error,
    regret,
)  # fmt: skip
from flops_fit.fit.varied import DECAY, TUNED, HParamNames, known, varied, varies
from flops_fit.flops.functions import Bools, Floats
from flops_fit.recipes.published import default
from flops_fit.recipes.resolve import RecipePowerLaw, RecipeTable, SizeName
from flops_fit.records import Diagnostic
from flops_fit.table.run_table import RunTable

METHOD = "valley, law and noise"
_OF_MUP = (0.0, 0.1)  # a₁, where it is not known whether one rate serves all widths
_OTHER_DATA = 1.5  # times the prior's standard deviations where data is no text
_BENDS = 0.09  # sd of the bends of ln η* and ln B*: of StepLaw's cells beyond the runs fitted
_MIXED = 1.2  # of chains, from which draws are doubted
_MOST_COST = 100.0  # in ln L, so that none is infinite
_FAR = math.log(10.0)  # beyond the runs, in ln N and ln D
# Which of the valley's constants each exponent is, and of what: η* and B* are the best.
EXPONENTS = {
    "lr_params": (1, "η* ∝ N^a at one D"),
    "lr_units": (2, "η* ∝ D^a at one N"),
    "lr_batch": (3, "best η ∝ B^a off B*"),
    "batch_units": (5, "B* ∝ D^b at one N"),
    "batch_params": (6, "B* ∝ N^b at one D"),
    "memory_params": (13, "τ* ∝ N^d at one D"),
    "memory_units": (12, "τ* ∝ D^d at one N"),
}
# Of each setting, its symbol and the first word of its exponents.
SAID = {"lr": ("lr", "lr"), "batch_units": ("batch", "batch"), DECAY: ("τ", "memory")}


@dataclass(frozen=True)
class BestHParams:
    """The best learning rate, batch and weight decay at one N and D; ``None`` for what runs did not vary.

    ``lr`` is the best at ``batch_units``, or, where the batch was not varied, at that of such runs, and
    ``weight_decay`` the best at both. ``regret`` is what they cost, relative to the loss at the true optimum:
    its mean, and the level's upper end. ``diagnostics`` say where N or D lie far from the runs.
    """

    lr: float | None
    batch_units: float | None
    lr_interval: Interval | None
    batch_interval: Interval | None
    regret: float
    regret_below: float
    level: float
    diagnostics: tuple[Diagnostic, ...] = ()
    weight_decay: float | None = None
    decay_interval: Interval | None = None


@dataclass(frozen=True, eq=False)
class HParamRule:
    """What runs say of the best learning rate, batch and weight decay, as ``fit.hparams`` of a fit.

    ln η* = a₀ + a₁ ln N + a₂ ln D and ln B* = b₀ + b₁ ln D + b₂ ln N, and so the memory τ* = B/(ηλ*D) of
    AdamW's weight decay λ; off them the loss rises as ``flops_fit.fit.valley`` says. Values are means,
    intervals quantiles over draws of all that runs leave open and, but for exponents, of how far the best
    lies off a power law. N counts as in the fit.

    Attributes
    ----------
    names
        What the runs varied: ``"lr"``, ``"batch_units"``, both, or these and ``"weight_decay"``.
    unit, batch_unit
        What D and B count.
    size
        Which count of parameters N is.
    runs, censored
        How many runs the rule rests on, and how many more of which only a lower bound of the loss is known.
    valley
        The drawn constants with their prior.
    """

    names: tuple[str, ...]
    unit: str
    batch_unit: str
    size: SizeName
    runs: int
    censored: int
    ranges: tuple[Interval, Interval]
    valley: Valley

    @cached_property
    def exponents(self) -> dict[str, Estimate]:
        r"""The exponents of what the runs varied, with their 90 % intervals.

        ``lr_params`` and ``lr_units`` are of η\* in N and D, ``lr_batch`` of the best rate in the batch, and
        ``batch_units`` and ``batch_params`` of B\*, ``memory_units`` and ``memory_params`` of τ\*.
        """
        return self.exponents_at(0.9)

    def exponents_at(self, level: float) -> dict[str, Estimate]:
        """:attr:`exponents` at another level."""
        check_level(level)
        known = {
            n: self.valley.draws[:, i] for n, (i, _) in EXPONENTS.items() if i in self.valley.free
        }
        return {
            n: Estimate(float(np.mean(draws)), _span(draws, level), level, METHOD)
            for n, draws in known.items()
        }

    def _logs(
        self, N: Any, D: Any, lr: Any = None, batch: Any = None, decay: Any = None
    ) -> tuple[Floats, Floats, Floats, Floats, Floats]:
        middle, values = self.valley.centre, []
        memory = None if decay is None else np.asarray(batch) / (np.asarray(lr) * decay * D)
        for i, given in enumerate((N, D, lr, batch, memory)):
            at = np.exp(middle[i]) if given is None else np.asarray(given, dtype=np.float64)
            values.append(np.atleast_1d(np.log(at) - middle[i]))
        x, y, *rest = map(np.ascontiguousarray, np.broadcast_arrays(*values))
        rate, batch, tau = rest
        return x, y, rate, batch, tau

    @cached_property
    def _bends(self) -> Floats:
        """How strongly ln η*, ln B* and ln τ* bend in each draw, (3, draws, 3); on average not at all."""
        half = np.random.default_rng(4).normal(size=(3, len(self.valley.draws) // 2, 3))
        return _BENDS * np.concatenate([half, -half], axis=1)

    def _bent(self, N: float, D: float) -> Floats:
        """How far ln η*, ln B* and ln τ* lie off the power laws in each draw, shape (3, draws, 1).

        Less among the runs, to which the power laws were fitted, than beyond: there they need not go on.
        """
        x, y, *_ = self._logs(N, D)
        linear = np.column_stack([np.ones(len(x)), x, y]) @ self.valley.plane
        return self._bends @ (bends(x, y) - linear).T

    def _cost(self, N: float, D: float, *settings: float | None) -> Floats:
        """What a rate, a batch and a decay cost in each draw, relative to the loss at the best."""
        x, y, *at = self._logs(N, D, *settings)
        off = [value - bent for value, bent in zip(at, self._bent(N, D), strict=True)]
        rate, batch, memory = off
        found = regret(self.valley.draws, x, y, rate, batch, memory)
        return np.asarray(np.expm1(np.minimum(found.value[:, 0], _MOST_COST)))

    def _regret(self, runs: RunTable) -> Regret:
        given = [getattr(runs, n) if n in self.names else None for n in TUNED]
        return regret(self.valley.draws, *self._logs(runs.params, runs.tokens, *given))

    def optimal(self, N: float, D: float, level: float = 0.9) -> BestHParams:
        """The best learning rate, batch and weight decay of a run of N parameters on D units."""
        for name, value in (("N", N), ("D", D)):
            check_number(name, value, above=0)
        check_level(level)
        x, y, *_ = (float(v[0]) for v in self._logs(N, D))
        draws, middle = self.valley.draws, self.valley.centre
        batches = draws[:, 4] + draws[:, 5] * y + draws[:, 6] * x
        rates = draws[:, 0] + draws[:, 1] * x + draws[:, 2] * y
        memory = draws[:, 11] + draws[:, 12] * y + draws[:, 13] * x
        rates, batches, memory = np.array([rates, batches, memory]) + self._bent(N, D)[..., 0]
        lr = batch = decay = lr_span = batch_span = decay_span = None
        if "batch_units" in self.names:
            batch = float(np.exp(np.mean(batches) + middle[3]))
            batch_span = _span(np.exp(batches + middle[3]), level)
        if "lr" in self.names:
            lr = float(np.exp(np.mean(rates) + middle[2]))
            off = draws[:, 3] * (np.mean(batches) - batches)
            lr_span = _span(np.exp(rates + off + middle[2]), level)
        if DECAY in self.names and lr is not None and batch is not None:
            found = np.log(batch / (lr * D)) - memory - middle[4]
            decay, decay_span = float(np.exp(np.mean(found))), _span(np.exp(found), level)
        cost = self._cost(N, D, lr, batch, decay)
        return BestHParams(
            lr, batch, lr_span, batch_span, float(np.mean(cost)),
            float(np.quantile(cost, level)), level, self._far(N, D), decay, decay_span,
        )  # fmt: skip

    def regret(
        self,
        N: float,
        D: float,
        lr: float | None = None,
        batch_units: float | None = None,
        level: float = 0.9,
        weight_decay: float | None = None,
    ) -> Estimate:
        """What a rate, a batch and a weight decay cost, relative to the loss at the best: (L − L*)/L*."""
        given = {"lr": lr, "batch_units": batch_units, DECAY: weight_decay}
        for name in self.names:
            if given[name] is None:
                raise InputError(f"regret: expected {name}, which the runs varied; got none.")
        for name, value in {"N": N, "D": D, **given}.items():
            if value is not None:
                check_number(name, value, above=0)
        check_level(level)
        known = [given[n] if n in self.names else None for n in TUNED]
        cost = self._cost(N, D, *known)
        span, notes = _span(cost, level), self._far(N, D)
        return Estimate(float(np.median(cost)), span, level, METHOD, diagnostics=notes)

    def _far(self, N: float, D: float) -> tuple[Diagnostic, ...]:
        out = []
        for name, value, (low, high) in zip("ND", (N, D), self.ranges, strict=True):
            off = max(math.log(low / value), math.log(value / high))
            if off > _FAR:
                out.append(finding("off_the_rule", name=name, value=value, factor=math.exp(off)))
        return tuple(out)

    @property
    def recipe(self) -> RecipeTable:
        """The rule as a recipe for a next sweep; all else as in the default recipe."""
        if self.batch_unit != self.unit and "batch_units" in self.names:
            raise InputError(
                f"recipe: expected batches in {self.unit}; the runs give them in {self.batch_unit}. Add "
                "a column seq_len, steps or batch_tokens to the table, or, where D counts samples, a column "
                "unit that says so."
            )
        return RecipeTable(f"joint-{self.runs}", {}, self.laws, default)

    @property
    def laws(self) -> dict[str, RecipePowerLaw]:
        """The best of each of ``names`` as a power law in N and D."""
        x, y, *middle = self.valley.centre.tolist()
        a0, a1, a2, _, b0, b1, b2, *_, d0, d1, d2, _ = np.mean(self.valley.draws, axis=0).tolist()
        lr, batch = (a0 + middle[0], a1, a2), (b0 + middle[1], b2, b1)
        memory = (d0 + middle[2] + y, d2, d1 + 1)  # τ·D
        decay = tuple(b - a - d for a, b, d in zip(lr, batch, memory, strict=True))
        own = {"lr": lr, "batch_units": batch, DECAY: decay}
        return {
            name: RecipePowerLaw(math.exp(log - n * x - d * y), n, d, size=self.size)
            for name, (log, n, d) in own.items()
            if name in self.names
        }

    def off(self, runs: RunTable) -> dict[str, Floats]:
        """How far, in logs, each run lies off the best of each setting."""
        found = self._regret(runs)
        return {
            n: off.mean(axis=0) for n, off in zip(TUNED, (found.u, found.v, -found.w), strict=True)
        }

    def expected(self, runs: RunTable) -> Floats:
        """The mean regret of each run, in ln L."""
        return np.asarray(np.mean(self.shifts(runs), axis=0))

    def freed(self, runs: RunTable) -> RunTable:
        """Runs with the losses that are expected at the best rate and batch of their N and D."""
        R = np.nan_to_num(self.expected(runs))  # a run without a rate is as it was measured
        findings = tuple(d for d in runs.findings if d.code != "settings_differ")
        return replace(runs, loss=runs.loss * np.exp(-R), regret=R, findings=findings)

    def covers(self, runs: RunTable) -> Bools:
        """Which runs have what the rule rests on."""
        said: Bools = np.all([known(getattr(runs, name)) for name in self.names], axis=0)
        return said

    def shifts(self, runs: RunTable) -> Floats:
        """The regret of each run in each draw, in ln L, shape (draws, runs)."""
        return self._regret(runs).value

    def weights(self, runs: RunTable) -> Floats:
        """How much each run counts beside one at its best: the form of a large regret is not exact."""
        return 1 / form_error(self.expected(runs), self.valley.prior, self.valley.noise)

    def diagnostics(self, runs: RunTable) -> list[Diagnostic]:
        """What was done to the losses of the runs, and how sure the rule is."""
        R = np.expm1(self.expected(runs))
        out = [finding("hparams", rule=self, median=100 * np.median(R), most=100 * np.max(R))]
        if DECAY not in self.names and varies(runs, DECAY, self.names):
            out.append(finding("decay_differs"))
        if self.valley.mixing > _MIXED:
            out.append(finding("hparams_draws", mixing=self.valley.mixing))
        return out

    def __str__(self) -> str:
        parts = []
        for name, (symbol, first) in SAID.items():
            if name in self.names:
                powers = [
                    f"{letter}^{e.value:+.2f} ({e.interval[0]:+.2f} to {e.interval[1]:+.2f})"
                    for letter, key in (("N", "params"), ("D", "units"))
                    if (e := self.exponents[f"{first}_{key}"]).interval
                ]
                parts.append(f"{symbol} ∝ {'·'.join(powers)}")
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        v = self.valley
        N, D = (float(c) for c in np.exp(v.centre[:2]))
        places = dict(zip(TUNED, CURVATURES, strict=True))
        curves = {n: np.exp(v.draws[:, i]) for n, i in places.items() if n in self.names}
        return {
            "varied": list(self.names),
            "runs": self.runs,
            "censored": self.censored,
            "batch_unit": self.batch_unit,
            "exponents": {
                name: {"value": e.value, "interval": e.interval, "meaning": EXPONENTS[name][1]}
                for name, e in self.exponents.items()
            },
            "at_the_middle": {"params": N, "units": D, **vars(self.optimal(N, D))},
            "curvature": {
                name: {"value": float(np.median(c)), "interval": _span(c, 0.9)}
                for name, c in curves.items()
            },
            "noise": v.noise,
            "prior": v.prior,
            "determined": v.effective,
            "sampler": v.sampler,
            "mixing": v.mixing,
        }  # fmt: skip


def _span(draws: Floats, level: float) -> Interval:
    low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


def prior_for(unit: str, mup: bool = False) -> ValleyPrior:
    """The prior for runs whose D counts ``unit``; under ``mup`` one rate is likely best for all sizes."""
    prior = ValleyPrior() if unit == "tokens" else ValleyPrior().widened(_OTHER_DATA)
    return replace(prior, a1=_OF_MUP) if mup else prior


def tuned_losses(
    runs: RunTable, hparams: HParamNames, size: SizeName, prior: ValleyPrior | None = None
) -> tuple[RunTable, HParamRule | None]:
    """Runs with the losses that they would have at their best, and the rule; as they are without one."""
    if hparams is None or runs.regret is not None:
        return runs, None
    asked = (
        hparams.names if isinstance(hparams, ValleyPrior) else () if hparams == "auto" else hparams
    )
    names = tuple(n for n in TUNED if n in asked) if asked else varied(runs)
    if not names:
        return runs, None
    for name in names:
        column = getattr(runs, name)
        if column is None or not np.any(known(column)):
            raise TableError(
                f"hparams=: expected a column {name}; the table has none. Add it, or use None."
            )
        runs = runs.select(known(column), f"it has no {name}")
    if np.min(runs.loss) <= 0:
        raise InputError("hparams=: expected positive losses; some are not. Use hparams=None.")
    prior = hparams if isinstance(hparams, ValleyPrior) else prior or prior_for(runs.unit, runs.mup)
    lr, batch = (getattr(runs, n) if n in names else None for n in TUNED[:2])
    valley = fit_valley(runs, lr, batch, prior, runs.memory if DECAY in names else None)
    N, D = runs.params, runs.tokens
    ranges = (float(np.min(N)), float(np.max(N))), (float(np.min(D)), float(np.max(D)))
    unit = runs.batch_unit or runs.unit
    rule = HParamRule(names, runs.unit, unit, size, len(runs), len(runs.censored), ranges, valley)
    return rule.freed(runs), rule
