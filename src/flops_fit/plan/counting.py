"""FLOPs per unit of the user's model at any size, by the method that the user chose."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

import numpy as np

from flops_fit import rng
from flops_fit.batches import batch_length, map_tensors, tensors_of
from flops_fit.errors import FlopsFitError, InputError, InputTypeError, LossError, is_whole
from flops_fit.fingerprint import holds_tensors
from flops_fit.flops.functions import (
    Floats,
    FlopsFunction,
    InterpolatedFlops,
    LinearFlops,
    SizePolynomial,
)
from flops_fit.flops.trace import TracedFlops, forward_flops, trace_flops
from flops_fit.lazy import torch
from flops_fit.model.params import find_experts, model_structure
from flops_fit.model.spec import ModelSpec, Size
from flops_fit.objective import Objective, check_loss
from flops_fit.plan.findings import in_words
from flops_fit.plan.lengths import Lengths
from flops_fit.text import error_line, user_line

FlopsMethod = str | Callable[[Any], float]

_MOST_TRACED = 2.5e8  # parameters, 1 GB: the largest model that is run on the CPU to be counted
_MOST_COMPARED = 5e7  # where the model alone was counted without values
_FIRST, _FEW_DRAWS, _DRAWS = 8, 32, 1024  # to see whether FLOPs are random, and to know their mean
_DRAWN_ERROR = 0.0075  # of that mean, relative: one standard error
_DRAWN_FLOPS = 4e10  # of all passes that are drawn, of which there are a few
_SAME = 1e-3  # relative: FLOPs that follow values of the batch differ a little


@dataclass
class FlopsCounter:
    """Counts training FLOPs per unit at a size; remembers each count.

    Where polynomials of the size predict a built model's structure, its FLOPs come from them, untraced.
    """

    spec: ModelSpec
    objective: Objective
    method: FlopsMethod
    unit: str
    batch: Any = None  # an example; None where there is no data to look at
    units: float = 1.0  # in that batch
    notes: list[str] = field(default_factory=list)
    lengths: Lengths | None = None  # where FLOPs depend on them, or do not add up
    _draws: bool = False  # whether a trace drew random numbers
    # Seeds whose FLOPs, so weighted, are the mean over all; one where they draw nothing.
    _shares: dict[int, float] = field(default_factory=dict)
    _withheld: tuple[
        str, ...
    ] = ()  # notes of a trace, until it is known what it left out at random
    _by_values: bool | None = None  # whether those of the loss are not nothing, once it is known
    _known: dict[str, float] = field(default_factory=dict)
    _weights: dict[str, Floats] = field(default_factory=dict)
    _polynomials: dict[tuple[Any, ...], SizePolynomial] = field(default_factory=dict)

    @property
    def _random(self) -> bool:
        return bool(self._shares) and 0 not in self._shares

    def __post_init__(self) -> None:
        if not (callable(self.method) or self.method in ("measured", "6nd")):
            kind = InputError if isinstance(self.method, str) else InputTypeError
            raise kind(
                "flops: expected 'measured', '6nd' or a function (model) -> training FLOPs per "
                f"unit; got {self.method!r}."
            )
        if self.method == "measured" and self.batch is None:
            self.method = "6nd"
            self._note(in_words("untraced", unit=self.unit.rstrip("s")).message)

    @classmethod
    def from_batch(
        cls,
        spec: ModelSpec,
        objective: Objective,
        method: FlopsMethod,
        batch: Any,
        unit: str,
        samples: int | None = None,
        lengths: Lengths | None = None,
    ) -> tuple[FlopsCounter, float]:
        """A counter on an example batch, and the number of units per sample in it."""
        count = float(objective.count(batch))
        if count <= 0 and (lengths is None or not lengths.typical()[0] > 0):
            raise InputError(
                "dataset: its first batch holds no counted unit; check targets or count_fn."
            )
        each = count / (samples or batch_length(batch))
        return cls(spec, objective, method, unit, batch, count, lengths=lengths), each

    def per_unit(self, size: Size) -> float:
        """Training FLOPs per unit at a size that the constructor accepts."""
        key = repr(size)
        if key in self._known:
            return self._known[key]
        if callable(self.method):
            value = float(self.method(self.spec.build_meta(size)))
            if not 0 < value < float("inf"):
                raise InputError(
                    f"flops: the function returned {value!r}; expected FLOPs per unit > 0."
                )
        elif self.method == "6nd":
            if self.batch is not None and self.unit != "tokens":
                self._refuse_reused_weights(size)
            value = self.per_unit_6nd(size)
        elif self.lengths is not None:
            value = self.of_run(size, *self.lengths.typical())
        else:
            value = self._measure(self.spec.build_meta(size), size, self.batch) / self.units
        self._known[key] = value
        return value

    def of_run(self, size: Size, units: float, row: Floats) -> float:
        """FLOPs per unit of a run whose samples have so many units and lengths, in the mean."""
        if self.method != "measured" or self.lengths is None:
            return self.per_unit(size)
        key, examples = repr(size), self.lengths.examples
        if key not in self._weights:
            model = self.spec.build_meta(size)
            rows = np.array([self.lengths.row(*example[1:]) for example in examples])
            values = [self._measure(model, size, e[0], i) / e[1] for i, e in enumerate(examples)]
            scale = np.abs(rows).max(axis=0)
            self._weights[key] = np.linalg.lstsq(rows / scale, values, rcond=1e-10)[0] / scale
        return float(row @ self._weights[key]) / units

    def settle(self, size: Size, known: Lengths) -> None:
        """Find out at one size whether FLOPs add up over samples; where not, count on several batches."""
        if self.method != "measured":
            return
        model = self.spec.build_meta(size)
        if known.mixed and self.lengths is not None:
            batch, samples, *lengths = known.mixed[0]
            expected = self.of_run(size, 1.0, np.array(known.row(samples, *lengths)))
            if abs(self._measure(model, size, batch, None) / samples - expected) > _SAME * expected:
                examples = [*known.examples, *known.mixed]
                self.lengths = known = replace(known, unpadded=True, examples=examples, _read={})
                self._known.clear()
                self._weights.clear()
        if not (repeated := known.repeated()):
            return
        one = self._measure(model, size, self.batch)
        two = self._measure(model, size, repeated[0][0], None)
        if abs(two - 2 * one) <= _SAME * two:
            return
        four, eight = (self._measure(model, size, example[0], None) for example in repeated[1:])
        # Eightfold by the quadratic polynomial through the batch once, twice and four times.
        if abs(8 * one - 14 * two + 7 * four - eight) <= _SAME * eight:
            self.lengths = replace(known, adds_up=False, examples=[*known.examples, *repeated])
            self._known.clear()
            self._note(in_words("flops_of_batches").message)

    def per_unit_6nd(self, size: Size) -> float:
        """6·N with N the total: the usual estimate, one position to a unit."""
        return 6.0 * self.spec.require(size).total

    def function(self, sizes: list[Size], batch_size: int | None = None) -> FlopsFunction:
        """F(N) for prediction, in batches of a size: exact at ``sizes``, counted on demand at others."""
        if self.method == "6nd":
            return LinearFlops(6.0)
        if self.lengths is not None and batch_size is not None:
            lengths = replace(self.lengths, nominal=batch_size)
            return replace(self, lengths=lengths, _known={}).function(sizes)
        counts = {float(self.spec.require(s).total): self.per_unit(s) for s in sizes}
        near = self._count_near if self.spec.size_param is not None else None
        by = "by the user's function" if callable(self.method) else "on the traced model"
        return InterpolatedFlops(counts, near, f"counted {by}")

    def _count_near(self, params: float) -> tuple[float, float] | None:
        nearest = self.spec.nearest(params)
        return None if nearest is None else (float(nearest[1].total), self.per_unit(nearest[0]))

    def _measure(self, model: Any, size: Size, batch: Any, place: int | None = 0) -> float:
        """FLOPs of both passes on a batch: in the mean of many draws, where the model draws what it runs."""
        if not self._shares:
            first = self._measure_one(model, size, batch, place, 0)
            if self._draws:
                with rng.kept():
                    self._shares = self._find_shares(model, size, batch, first)
            else:
                self._shares = {0: 1.0}
            if not self._random:
                self._note(*self._withheld)
                return first
        each = (
            s * self._measure_one(model, size, batch, place, k) for k, s in self._shares.items()
        )
        return sum(each)

    def _find_shares(self, model: Any, size: Size, batch: Any, total: float) -> dict[int, float]:
        """Some draws that, so weighted, run each operation as often as the mean of many draws does.

        These are forward passes with values, where one is cheap, and else whole traces.
        """
        from scipy.optimize import nnls

        most = min(_DRAWS, int(_DRAWN_FLOPS / total))
        rng.seed(0)
        real: Any = None
        inputs = map_tensors(batch, lambda t: t.cpu())

        def draw(seed: int) -> Mapping[str, float]:
            if real is None:
                traced = self._traced(model, size, batch, seed)
                return {name: op.forward + op.backward for name, op in traced.ops}
            rng.seed(seed)
            return forward_flops(lambda: self.objective(real, inputs))

        if most >= _FEW_DRAWS:
            try:
                real = self.spec.build(size).cpu().train()
                draw(1)
            except Exception:  # the user's code may need another device
                real = None
        drawn: list[Mapping[str, float]] = []
        mean, error = 0.0, inf
        while not drawn or (len(drawn) < most and error > _DRAWN_ERROR):
            drawn += [draw(len(drawn) + k + 1) for k in range(_FEW_DRAWS if drawn else _FIRST)]
            sums = np.array([sum(calls.values()) for calls in drawn])
            mean = float(sums.mean())
            if np.ptp(sums) <= _SAME * mean:
                return {0: 1.0}
            error = float(sums.std(ddof=1)) / len(sums) ** 0.5 / mean
        self._note(in_words("random_flops", draws=len(drawn), error=error).message)
        names = sorted({name for calls in drawn for name in calls})
        table = np.array([[calls.get(name, 0.0) for calls in drawn] for name in names])
        rows = np.vstack([table / mean, np.ones(len(drawn))])
        shares = nnls(rows, rows.mean(1))[0]
        found = {int(k) + 1: float(shares[k]) for k in np.flatnonzero(shares > 1e-9)}
        traced = {seed: self._traced(model, size, batch, seed) for seed in found}
        self._note(*(n for n in self._withheld if all(n[7:-1] in t.notes for t in traced.values())))
        forward = sum(found[seed] * t.forward for seed, t in traced.items())
        if (
            real is not None and abs(forward - mean) > _SAME * mean
        ):  # it draws otherwise with values
            return dict.fromkeys(range(1, _FEW_DRAWS + 1), 1 / _FEW_DRAWS)
        return found

    def _measure_one(
        self, model: Any, size: Size, batch: Any, place: int | None, seed: int
    ) -> float:
        """FLOPs of both passes from a seed on, from verified polynomials or from a trace."""
        if place is None or not is_whole(size) or not hasattr(model, "named_parameters"):
            return self._trace(model, size, batch, seed)
        structure = model_structure(model)
        names = tuple(sorted(structure))
        values = tuple(structure[name] for name in names)
        polynomial = self._polynomials.setdefault((place, seed, *names), SizePolynomial())
        known = polynomial.flops(size, values) if polynomial.traced else None
        if known is not None:
            return known
        total = self._trace(model, size, batch, seed)
        polynomial.add(size, total, values)
        return total

    def _trace(self, model: Any, size: Size, batch: Any, seed: int) -> float:
        """FLOPs of both passes on a batch, with notes of what the trace could not see."""
        leaves: list[Any] = []
        map_tensors(batch, leaves.append)
        if any(t.is_nested for t in leaves):
            raise InputError(
                "flops: a batch holds nested tensors, whose FLOPs cannot be counted. Pad or pack samples, or "
                "give flops= a function (model) -> training FLOPs per unit."
            )
        with rng.kept():
            traced = self._traced(model, size, batch, seed)
        if not self._random:
            self._withheld = tuple(f"FLOPs: {note}." for note in traced.notes)
            self._note(*(() if self._draws and not self._shares else self._withheld))
        params = self.spec.require(size)
        experts = find_experts(model, traced.passes, self._draws)
        told = any("active_params()" in note for note in self.notes)
        if experts and params.active >= params.total and not told:
            self._note(in_words("silent_experts", experts=experts[0]).message)
        if traced.total <= 0 and not self._draws:
            raise InputError(
                "flops: no matrix product, convolution or attention was seen in the model. "
                "Give flops='6nd', or a function (model) -> training FLOPs per unit."
            )
        return traced.total

    def _traced(self, model: Any, size: Size, batch: Any, seed: int) -> TracedFlops:
        """A trace without values, or with them where it must be; of a model, or of a step and its loss."""
        objective, total = self.objective, self.spec.require(size).total
        step = objective.step_fn is not None
        holds = holds_tensors(objective.step_fn or objective.loss_fn)
        error: Exception = InputError("flops: the loss has tensors of its own, with values")
        if total <= _MOST_TRACED and (self._by_values or (step and holds)):
            return self._trace_values(size, batch, error, seed)
        if hasattr(model, "to"):
            model = model.to("meta")
        try:
            meta = map_tensors(batch, lambda t: t.to("meta"))
            if step or not holds:  # which it might move to meta for good
                return self._counted(lambda: self._loss(model, meta), model, seed)
        except LossError:
            raise
        except Exception as caught:  # the user's model and loss may raise anything
            error = caught
        # A loss may read values (a mask, an .item()), which a trace does not have.
        output = None
        with suppress(Exception):
            if not step:
                output = self._counted(lambda: self._summed_output(model, meta), model, seed)
        if output is None:
            try:
                return self._trace_values(size, batch, error, seed)
            except InputError:
                if not hasattr(model, "active_params") or self.unit != "tokens":
                    raise
            why = error_line(error).rstrip(".")
            self._note(in_words("active_6nd", model=self.spec.reference, why=why).message)
            active = self.spec.require(size).active
            return TracedFlops(6.0 * active * float(objective.count(batch)), 0.0)
        if self._by_values is None and total <= _MOST_COMPARED:
            with suppress(FlopsFitError):
                traced = self._trace_values(size, batch, error, seed)
                # The output leaves out the loss, which may hold a network.
                self._by_values = abs(traced.total - output.total) > _SAME * traced.total
                return traced if self._by_values else output
        return output

    def _counted(self, forward: Callable[[], Any], model: Any, seed: int) -> TracedFlops:
        """The trace of a pass from a seed on, with a note of whether it draws random numbers."""
        if seed:
            rng.seed(seed)
        before = None if self._draws or self._shares else rng.state()
        traced = trace_flops(forward, model, bool(seed))
        self._draws = self._draws or (before is not None and rng.state() != before)
        return traced

    def _loss(self, model: Any, batch: Any) -> Any:
        if self.objective.step_fn is not None:
            return self.objective(model, batch)[0]
        return check_loss(self.objective.mean(model, batch))

    def _summed_output(self, model: Any, batch: Any) -> Any:
        leaves = tensors_of(self.objective.output(model, batch))
        return sum(leaf.sum() for leaf in leaves if leaf.requires_grad)

    def _trace_values(self, size: Size, batch: Any, error: Exception, seed: int) -> TracedFlops:
        """A trace of the model itself on the batch itself, on the CPU."""
        total = self.spec.require(size).total
        if total > _MOST_TRACED:
            raise InputError(
                f"flops: {self.spec.reference} looks at values, so that its FLOPs are counted on the CPU; "
                f"{total:.2g} parameters are more than the {_MOST_TRACED:.0e} for which that is done. "
                f"Without values it raised {error_line(error)}{user_line(error)}. Give smaller sizes, or "
                "flops= a function (model) -> training FLOPs per unit."
            ) from error
        batch = map_tensors(batch, lambda t: t.cpu())
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # torch's own, of devices not here
                rng.seed(0)
                model = self.spec.build(size).cpu().train()
                with torch.backends.mkldnn.flags(enabled=False):  # it hides recurrent layers
                    return self._counted(lambda: self._loss(model, batch), model, seed)
        except FlopsFitError:
            raise
        except Exception as failure:
            raise InputError(
                f"flops: {self.spec.reference} with its loss raised {error_line(failure)}"
                f"{user_line(failure)}, when its FLOPs were counted on the first batch. If it runs "
                "elsewhere (it may need a GPU), give flops= a function (model) -> training FLOPs per "
                "unit, or flops='6nd'."
            ) from failure

    def _note(self, *sentences: str) -> None:
        self.notes.extend(s for s in sentences if s not in self.notes)

    def _refuse_reused_weights(self, size: Size) -> None:
        """6N counts a weight once a unit; refuse where a unit is known to pass it more often."""
        model = self.spec.build_meta(size)
        reused = (torch.nn.modules.conv._ConvNd, torch.nn.MultiheadAttention, torch.nn.RNNBase)
        for module in model.modules() if hasattr(model, "modules") else ():
            if isinstance(module, reused):
                raise InputError(
                    f"flops='6nd': {type(module).__name__} applies its weights at many positions of "
                    f"one {self.unit.rstrip('s')}, so 6·N is not its cost. Use flops='measured'."
                )
