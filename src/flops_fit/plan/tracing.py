"""One pass of the user's model and its loss, traced without values where that is possible, else with them."""

import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flops_fit import rng
from flops_fit.batches import map_tensors, tensors_of
from flops_fit.errors import FlopsFitError, InputError, LossError
from flops_fit.fingerprint import holds_tensors
from flops_fit.flops.trace import STRATA, TracedFlops, forward_flops, trace_flops
from flops_fit.lazy import torch
from flops_fit.model.params import find_experts
from flops_fit.model.spec import ModelSpec, Size
from flops_fit.objective import Objective, check_loss
from flops_fit.plan.extent import perturbed
from flops_fit.plan.findings import in_words
from flops_fit.text import error_line, user_line

SAME = 1e-3  # relative: FLOPs that follow values of the batch differ a little
_MOST_TRACED = 2.5e8  # parameters, 1 GB: the largest model that is run on the CPU to be counted
_MOST_COMPARED = 5e7  # where that is done to see whether it is needed
_FEW = 8  # draws, to see whether FLOPs are random
_GROUPS = (1, 4, 8, 16, 32)  # of draws, each spread evenly, to know their mean
_DRAWN_ERROR = 0.0075  # of that mean, relative: one standard error
_DRAWN_FLOPS = 4e10  # of all passes that are drawn


@dataclass
class Tracer:
    """Traces of a model with its loss, or of the user's step, in training; notes of what they cannot see.

    ``shares``: seeds, and weights with which their FLOPs are the mean over all draws of a model that draws
    what it computes; seed 0 alone for one that does not. ``None`` until it is known.
    """

    spec: ModelSpec
    objective: Objective
    unit: str
    notes: list[str] = field(default_factory=list)
    shares: Mapping[int, float] | None = None
    _draws: bool = False  # whether a trace drew random numbers
    _by_values: bool = False  # whether it needs those of the batch or of the loss
    _compared: bool = False  # whether it has been tried if it does
    _withheld: tuple[
        str, ...
    ] = ()  # notes of the first trace, while it is not known what it left out

    def note(self, *sentences: str) -> None:
        """Keep notes that are not yet there."""
        self.notes.extend(s for s in sentences if s not in self.notes)

    def total(self, model: Any, size: Size, batch: Any, seed: int) -> float:
        """FLOPs of both passes on a batch, from a seed on."""
        nested: list[bool] = []
        map_tensors(batch, lambda t: nested.append(t.is_nested))
        if any(nested):
            raise InputError(
                "flops: a batch holds nested tensors, whose FLOPs cannot be counted. Pad or pack samples, or "
                "give flops= a function (model) -> training FLOPs per unit."
            )
        with rng.kept():
            traced = self._traced(model, size, batch, seed)
        said = tuple(f"FLOPs: {note}." for note in traced.notes)
        if self.shares is None:
            self._withheld = said
        elif 0 in self.shares:
            self.note(*said)
        params, experts = self.spec.require(size), find_experts(model, traced.calls)
        told = any("active_params()" in note for note in self.notes)
        if experts and params.active >= params.total and not told:
            self.note(in_words("silent_experts", experts=experts[0]).message)
        if traced.total <= 0 and not self._draws:
            raise InputError(
                "flops: no matrix product, convolution or attention was seen in the model. "
                "Give flops='6nd', or a function (model) -> training FLOPs per unit."
            )
        return traced.total

    def settle(self, model: Any, size: Size, batch: Any, first: float) -> None:
        """Find ``shares``, after a trace from seed 0 on."""
        self.shares = {0: 1.0}
        if self._draws:
            with rng.kept():
                self.shares = self._find_shares(model, size, batch, first)
        if 0 in self.shares:
            self.note(*self._withheld)

    def _find_shares(self, model: Any, size: Size, batch: Any, total: float) -> dict[int, float]:
        """Some draws that, so weighted, run each operation as often as the mean of many draws does.

        These are forward passes with values, where one is cheap, and else whole traces.
        """
        from scipy.optimize import nnls

        rng.seed(0)
        real: Any = None
        if total * STRATA <= _DRAWN_FLOPS:
            with suppress(Exception):  # the user's code may need another device
                real, inputs = self.spec.build(size).cpu().train(), on_cpu(batch)
                forward_flops(lambda: self.objective(real, inputs), 1)

        def draw(seed: int) -> Mapping[str, float]:
            if real is None:
                ops = self._traced(model, size, batch, seed).ops
                return {name: op.forward + op.backward for name, op in ops}
            rng.seed(seed)
            return forward_flops(lambda: self.objective(real, inputs), seed)

        drawn = [draw(seed) for seed in range(1, _FEW + 1)]
        sums = np.array([sum(calls.values()) for calls in drawn])
        if np.ptp(sums) <= SAME * sums.mean():
            return {0: 1.0}
        for groups in _GROUPS:
            drawn += [draw(seed) for seed in range(len(drawn) + 1, groups * STRATA + 1)]
            sums = np.array([sum(calls.values()) for calls in drawn])
            means = sums if groups == 1 else sums.reshape(groups, STRATA).mean(1)
            error = float(means.std(ddof=1)) / len(means) ** 0.5 / (mean := float(sums.mean()))
            dear = real is None or total * len(drawn) > _DRAWN_FLOPS
            if dear or (groups > 1 and error <= _DRAWN_ERROR):
                break
        spread = float(sums.std()) / mean
        said = {"draws": len(drawn), "error": error, "spread": spread, "run": spread / 1000**0.5}
        self.note(in_words("random_flops", **said).message)
        names = sorted({name for calls in drawn for name in calls})
        table = np.array([[calls.get(name, 0.0) for calls in drawn] for name in names])
        rows = np.vstack([table / mean, np.ones(len(drawn))])
        shares = nnls(rows, rows.mean(1))[0]
        found = {int(k) + 1: float(shares[k]) for k in np.flatnonzero(shares > 1e-9)}
        traced = {seed: self._traced(model, size, batch, seed) for seed in found}
        self.note(*(n for n in self._withheld if all(n[7:-1] in t.notes for t in traced.values())))
        forward = sum(found[seed] * t.forward for seed, t in traced.items())
        if real is not None and abs(forward - mean) > SAME * mean:
            return dict.fromkeys(range(1, STRATA + 1), 1 / STRATA)  # it draws otherwise with values
        return found

    def _traced(self, model: Any, size: Size, batch: Any, seed: int) -> TracedFlops:
        """A trace without values, or with them where it must be; of a model, or of a step and its loss."""
        objective, total = self.objective, self.spec.require(size).total
        step = objective.step_fn is not None
        holds = holds_tensors(objective.step_fn or objective.loss_fn)
        error: Exception = InputError("flops: the loss has tensors of its own, with values")
        if total <= _MOST_TRACED and (self._by_values or (step and holds)):
            return self._trace_values(size, batch, error, seed)
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
                traced = self._trace_values(size, batch, error, seed)
                self._by_values = True
                if not (self._compared or self._draws or total > _MOST_COMPARED):
                    self._compared = True
                    other = self._trace_values(size, batch, error, seed, perturbed)
                    if abs(other.total - traced.total) > SAME * traced.total:
                        ratio = other.total / traced.total
                        self.note(in_words("flops_of_weights", ratio=ratio).message)
                return traced
            except InputError:
                if not hasattr(model, "active_params") or self.unit != "tokens":
                    raise
            why = error_line(error).rstrip(".")
            self.note(in_words("active_6nd", model=self.spec.reference, why=why).message)
            active = self.spec.require(size).active
            return TracedFlops(6.0 * active * float(objective.count(batch)), 0.0)
        if not self._compared and total <= _MOST_COMPARED:
            self._compared = True
            with suppress(FlopsFitError):
                traced = self._trace_values(size, batch, error, seed)
                # The output leaves out the loss, which may hold a network.
                self._by_values = abs(traced.total - output.total) > SAME * traced.total
                return traced if self._by_values else output
        return output

    def _counted(self, forward: Callable[[], Any], model: Any, seed: int) -> TracedFlops:
        """The trace of a pass from a seed on, with a note of whether it draws random numbers."""
        if seed:
            rng.seed(seed)
        before = None if self._draws or self.shares else rng.state()
        traced = trace_flops(forward, model, seed)
        self._draws = self._draws or (before is not None and rng.state() != before)
        return traced

    def _loss(self, model: Any, batch: Any) -> Any:
        if self.objective.step_fn is not None:
            return self.objective(model, batch)[0]
        return check_loss(self.objective.mean(model, batch))

    def _summed_output(self, model: Any, batch: Any) -> Any:
        leaves = tensors_of(self.objective.output(model, batch))
        return sum(leaf.sum() for leaf in leaves if leaf.requires_grad)

    def _trace_values(
        self,
        size: Size,
        batch: Any,
        error: Exception,
        seed: int,
        change: Callable[[Any], Any] = lambda model: model,
    ) -> TracedFlops:
        """A trace of the model itself, or of a changed one, on the batch itself, on the CPU."""
        total = self.spec.require(size).total
        if total > _MOST_TRACED:
            raise InputError(
                f"flops: {self.spec.reference} looks at values, so that its FLOPs are counted on the CPU; "
                f"{total:.2g} parameters are more than the {_MOST_TRACED:.0e} for which that is done. "
                f"Without values it raised {error_line(error)}{user_line(error)}. Give smaller sizes, or "
                "flops= a function (model) -> training FLOPs per unit."
            ) from error
        batch = on_cpu(batch)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # torch's own, of devices not here
                rng.seed(0)
                model = change(self.spec.build(size).cpu().train())
                with torch.backends.mkldnn.flags(enabled=False):  # it hides recurrent layers
                    return self._counted(lambda: self._loss(model, batch), model, seed)
        except FlopsFitError:
            raise
        except Exception as failure:  # the user's model and loss may raise anything
            raise InputError(
                f"flops: {self.spec.reference} with its loss raised {error_line(failure)}"
                f"{user_line(failure)}, when its FLOPs were counted on the first batch. If it runs "
                "elsewhere (it may need a GPU), give flops= a function (model) -> training FLOPs per "
                "unit, or flops='6nd'."
            ) from failure


def on_cpu(batch: Any) -> Any:
    """A batch in the host's memory."""
    return map_tensors(batch, lambda t: t.cpu())
