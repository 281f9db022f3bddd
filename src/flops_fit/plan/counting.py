"""FLOPs per unit of the user's model at any size, by the method that the user chose."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from flops_fit.batches import batch_length
from flops_fit.errors import InputError, InputTypeError, is_whole
from flops_fit.flops.functions import (
    Floats,
    FlopsFunction,
    InterpolatedFlops,
    LinearFlops,
    SizePolynomial,
    outside_in,
)
from flops_fit.lazy import torch
from flops_fit.model.spec import ModelSpec, Size
from flops_fit.model.structure import model_structure
from flops_fit.objective import Objective
from flops_fit.plan.findings import in_words
from flops_fit.plan.lengths import Lengths
from flops_fit.plan.tracing import SAME, Tracer

_REACH = 4.0  # how far beyond traced sizes a polynomial is trusted, to look for sizes

FlopsMethod = str | Callable[[Any], float]


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
    lengths: Lengths | None = None  # where FLOPs depend on them, or do not add up
    reach: float = 1.0  # how far polynomials are trusted beyond the sizes that were traced
    refuted: bool = False  # whether a polynomial that was trusted turned out to be none
    tracer: Tracer = field(init=False)
    _known: dict[str, float] = field(default_factory=dict)
    _weights: dict[str, Floats] = field(default_factory=dict)
    _polynomials: dict[tuple[Any, ...], SizePolynomial] = field(default_factory=dict)
    _traces: dict[tuple[Any, ...], float] = field(default_factory=dict)

    @property
    def notes(self) -> list[str]:
        """What counting could not see."""
        return self.tracer.notes

    def __post_init__(self) -> None:
        self.tracer = Tracer(self.spec, self.objective, self.unit)
        if not (callable(self.method) or self.method in ("measured", "6nd")):
            kind = InputError if isinstance(self.method, str) else InputTypeError
            raise kind(
                "flops: expected 'measured', '6nd' or a function (model) -> training FLOPs per "
                f"unit; got {self.method!r}."
            )
        if self.method == "measured" and self.batch is None:
            self.method = "6nd"
            self.tracer.note(in_words("untraced", unit=self.unit.rstrip("s")).message)

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
            if abs(self._measure(model, size, batch, None) / samples - expected) > SAME * expected:
                examples = [*known.examples, *known.mixed]
                self.lengths = known = replace(known, unpadded=True, examples=examples, _read={})
                self._known.clear()
                self._weights.clear()
        if not (repeated := known.repeated()):
            return
        one = self._measure(model, size, self.batch)
        two = self._measure(model, size, repeated[0][0], None)
        if abs(two - 2 * one) <= SAME * two:
            return
        four, eight = (self._measure(model, size, example[0], None) for example in repeated[1:])
        # Eightfold by the quadratic polynomial through the batch once, twice and four times.
        if abs(8 * one - 14 * two + 7 * four - eight) <= SAME * eight:
            self.lengths = replace(known, adds_up=False, examples=[*known.examples, *repeated])
            self._known.clear()
            self.tracer.note(in_words("flops_of_batches").message)
        else:
            samples = repeated[0][1] // 2
            self.tracer.note(in_words("flops_of_no_polynomial", samples=samples).message)

    def per_unit_6nd(self, size: Size) -> float:
        """6·N with N the total: the usual estimate, one position to a unit."""
        return 6.0 * self.spec.require(size).total

    def function(self, sizes: list[Size], batch_size: int | None = None) -> FlopsFunction:
        """F(N) for prediction, in batches of a size: exact at ``sizes``, counted on demand at others."""
        if self.method == "6nd":
            return LinearFlops(6.0)
        if self.lengths is not None and batch_size is not None:
            counter = copy(self)
            counter.lengths, counter._known = replace(self.lengths, nominal=batch_size), {}
            return counter.function(sizes)
        by_params = {float(self.spec.require(s).total): s for s in sizes}
        counts = {n: self.per_unit(by_params[n]) for n in outside_in(by_params)}
        near = self._count_near if self.spec.size_param is not None else None
        by = "by the user's function" if callable(self.method) else "on the traced model"
        return InterpolatedFlops(counts, near, f"counted {by}")

    def roughly(self) -> FlopsCounter:
        """A counter for the search for sizes, which traces few of those that it tries."""
        out = copy(self)
        out.reach, out.refuted, out._known, out._weights = _REACH, False, {}, {}
        return out

    def _count_near(self, params: float) -> tuple[float, float] | None:
        nearest = self.spec.nearest(params)
        return None if nearest is None else (float(nearest[1].total), self.per_unit(nearest[0]))

    def _measure(self, model: Any, size: Size, batch: Any, place: int | None = 0) -> float:
        """FLOPs of both passes on a batch: in the mean of many draws, where the model draws what it runs."""
        tracer = self.tracer
        if tracer.shares is None:
            first = self._measure_one(model, size, batch, place, 0)
            tracer.settle(model, size, batch, first)
            if 0 in (tracer.shares or ()):
                return first
        shares = (tracer.shares or {}).items()
        return sum(s * self._measure_one(model, size, batch, place, seed) for seed, s in shares)

    def _measure_one(
        self, model: Any, size: Size, batch: Any, place: int | None, seed: int
    ) -> float:
        """FLOPs of both passes from a seed on, from verified polynomials or from a trace."""
        if place is None or not is_whole(size) or not hasattr(model, "named_parameters"):
            return self.tracer.total(model, size, batch, seed)
        found, traced = model_structure(model), (place, seed, repr(size))
        if traced in self._traces:
            return self._traces[traced]
        polynomial = self._polynomials.setdefault((place, seed, *found.names), SizePolynomial())
        trusted = polynomial.verified
        known = polynomial.flops(size, found.values, found.spans, self.reach)
        if known is not None:
            return known
        total = self._traces[traced] = self.tracer.total(model, size, batch, seed)
        polynomial.add(size, total, found.values, found.spans)
        self.refuted = self.refuted or (trusted and not polynomial.verified)
        return total

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
