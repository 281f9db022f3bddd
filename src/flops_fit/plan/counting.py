"""FLOPs per unit of the user's model at any size, by the method that the user chose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from flops_fit.errors import InputError, InputTypeError, LossError
from flops_fit.flops.functions import FlopsFunction, InterpolatedFlops, LinearFlops
from flops_fit.flops.trace import trace_flops
from flops_fit.model.params import find_experts
from flops_fit.model.spec import ModelSpec, Size
from flops_fit.objective import Objective, batch_length, check_loss, map_tensors

FlopsMethod = str | Callable[[Any], float]


@dataclass
class FlopsCounter:
    """Counts training FLOPs per unit at a size; remembers each count.

    ``batch`` is one example batch, ``None`` where there is no data to look at. ``units`` is its
    number of units.
    """

    spec: ModelSpec
    objective: Objective
    method: FlopsMethod
    unit: str
    batch: Any = None
    units: float = 1.0
    notes: list[str] = field(default_factory=list)
    _known: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (callable(self.method) or self.method in ("measured", "6nd")):
            kind = InputError if isinstance(self.method, str) else InputTypeError
            raise kind(
                "flops: expected 'measured', '6nd' or a function (model) -> training FLOPs per "
                f"unit; got {self.method!r}."
            )
        if self.method == "measured" and self.batch is None:
            self.method = "6nd"
            self.notes.append(
                f"There was no data to trace the model on: FLOPs are 6·N per {self.unit.rstrip('s')}, "
                "as if each passed every weight once. Give example_batch= for an exact count."
            )

    def per_unit(self, size: Size) -> float:
        """Training FLOPs per unit at a size that the constructor accepts."""
        key = repr(size)
        if key not in self._known:
            self._known[key] = self._count(size)
        return self._known[key]

    def per_unit_6nd(self, size: Size) -> float:
        """6·N with N the total: the usual estimate, one position to a unit."""
        return 6.0 * self.spec.require(size).total

    def _count(self, size: Size) -> float:
        if self.method == "6nd":
            if self.batch is not None:
                self._refuse_reused_weights(size)
            return self.per_unit_6nd(size)
        model = self.spec.build_meta(size)
        if callable(self.method):
            value = float(self.method(model))
            if not 0 < value < float("inf"):
                raise InputError(
                    f"flops: the function returned {value!r}; expected FLOPs per unit > 0."
                )
            return value
        return self._trace(model, size) / self.units

    def _trace(self, model: Any, size: Size) -> float:
        """FLOPs of both passes on the batch."""
        meta = map_tensors(self.batch, lambda t: t.to("meta"))
        if hasattr(model, "to"):
            model = model.to("meta")
        try:
            traced = trace_flops(lambda: self._loss(model, meta), model)
        except LossError:
            raise
        except Exception as error:  # the user's model and loss may raise anything
            # A loss may read values (a mask, an .item()), which a trace does not have.
            try:
                traced = trace_flops(lambda: self._summed_output(model, meta), model)
            except Exception:
                return self._untraced(model, size, error)
        self._tell(*(f"FLOPs: {note}." for note in traced.notes))
        self._tell_experts(model, size)
        if traced.total <= 0:
            raise InputError(
                "flops: no matrix product, convolution or attention was seen in the model. "
                "Give flops='6nd', or a function (model) -> training FLOPs per unit."
            )
        return traced.total

    def _untraced(self, model: Any, size: Size, error: Exception) -> float:
        """6·N_active of what cannot be traced and says which of its parameters are active."""
        params = self.spec.require(size)
        if hasattr(model, "active_params") and self.unit == "tokens":
            self._tell(
                f"FLOPs are 6·N of the active parameters, as {self.spec.reference} cannot be traced "
                f"({type(error).__name__}: {_first_line(error)}); attention is not in them. For an "
                "exact count give flops= a function (model) -> training FLOPs per unit."
            )
            return 6.0 * params.active * self.units
        experts = find_experts(model)
        routing = (
            f"Its experts ({experts[0].name}) take tokens by their values, which a trace does not "
            "have: declare active_params() on the model, those that one token passes. "
            if experts
            else ""
        )
        raise InputError(
            f"flops: {self.spec.reference} raised {type(error).__name__} when it was traced "
            f"on the first batch without values: {error}. {routing}Mend the model if it fails on "
            "real batches too; if only tracing fails, "
            "give flops='6nd', or a function (model) -> training FLOPs per unit."
        ) from error

    def _tell(self, *sentences: str) -> None:
        self.notes.extend(s for s in sentences if s not in self.notes)

    def _tell_experts(self, model: Any, size: Size) -> None:
        experts = find_experts(model)
        params = self.spec.require(size)
        if not experts or params.active < params.total:
            return
        self._tell(
            f"The model has experts ({experts[0].name}: {experts[0].number}) and does not say how many "
            "a unit passes: FLOPs are those of the experts that the trace ran, and N is of all. "
            "Declare active_params() on the model to have both."
        )

    def _loss(self, model: Any, batch: Any) -> Any:
        if self.objective.step_fn is not None:
            return self.objective(model, batch)[0]
        return check_loss(self.objective.mean(model, batch))

    def _summed_output(self, model: Any, batch: Any) -> Any:
        leaves: list[Any] = []
        map_tensors(self.objective.output(model, batch), leaves.append)
        return sum(leaf.sum() for leaf in leaves if leaf.requires_grad)

    def _refuse_reused_weights(self, size: Size) -> None:
        """6N counts a weight once a unit; refuse where a unit is known to pass it more often."""
        if self.unit == "tokens":
            return
        import torch

        model = self.spec.build_meta(size)
        reused = (torch.nn.modules.conv._ConvNd, torch.nn.MultiheadAttention, torch.nn.RNNBase)
        for module in model.modules() if hasattr(model, "modules") else ():
            if isinstance(module, reused):
                raise InputError(
                    f"flops='6nd': {type(module).__name__} applies its weights at many positions of "
                    f"one {self.unit.rstrip('s')}, so 6·N is not its cost. Use flops='measured'."
                )

    def function(self, sizes: list[Size]) -> FlopsFunction:
        """F(N) for prediction: exact at every size, counted anew at sizes nobody trained."""
        if self.method == "6nd":
            return LinearFlops(6.0)
        counts = {float(self.spec.require(s).total): self.per_unit(s) for s in sizes}
        near = self._count_near if self.spec.size_param is not None else None
        return InterpolatedFlops(counts, near, self.description)

    @property
    def description(self) -> str:
        """How F(N) was found, in words."""
        if self.method == "6nd":
            return "6·N per unit"
        if callable(self.method):
            return "counted by the user's function"
        return "counted on the traced model"

    def _count_near(self, params: float) -> tuple[float, float] | None:
        found = self.spec.nearest(params)
        return None if found is None else (float(found[1].total), self.per_unit(found[0]))

    @classmethod
    def from_batch(
        cls, spec: ModelSpec, objective: Objective, method: FlopsMethod, batch: Any, unit: str
    ) -> tuple[FlopsCounter, float]:
        """A counter on an example batch, and the number of units per sample in it."""
        count = float(objective.count(batch))
        if count <= 0:
            raise InputError(
                "dataset: its first batch holds no counted unit; check targets or count_fn."
            )
        return cls(spec, objective, method, unit, batch, count), count / batch_length(batch)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0].rstrip(".")
