"""The result of a fit: a law, how sure it is, and everything that was noticed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, overload

import numpy as np

from flops_fit.errors import InputError
from flops_fit.files import write_json
from flops_fit.fit.approaches import Approach, Headline, predict_from_lines, three_approaches
from flops_fit.fit.axis import AxisEffect, axis_effect
from flops_fit.fit.checks import Outlier, ResidualMap, trust_of
from flops_fit.fit.conditions import Conditions
from flops_fit.fit.experts import expert_notes
from flops_fit.fit.export import Question, fit_card, summary
from flops_fit.fit.hparam_rule import HParamRule
from flops_fit.fit.intervals import Estimate, Evidence, check_level, drawn_laws, estimate
from flops_fit.fit.minima import Envelope, IsoFLOP
from flops_fit.fit.prediction import (
    QUANTITIES,
    Budget,
    Prediction,
    Predictions,
    check_target,
    predict,
    predict_path,
)
from flops_fit.fit.questions import Questions
from flops_fit.fit.repeated import scarcity_notes
from flops_fit.fit.search import LawSearch
from flops_fit.fit.selection import Sensitivity
from flops_fit.fit.solver import FitStatus, Solution
from flops_fit.fit.surface_solver import Choice
from flops_fit.fit.window import WindowReport
from flops_fit.flops.functions import Floats, FlopsFunction, flops_to_dict
from flops_fit.laws.law import FlopsLike, Law, as_flops
from flops_fit.laws.optimum import Optimum, positive
from flops_fit.recipes.resolve import RecipeTable
from flops_fit.records import Diagnostic, finite_json
from flops_fit.table.left_out import Excluded
from flops_fit.table.run_table import RunTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Caps(TypedDict, total=False):
    """Limits of :meth:`Fit.predict`."""

    max_params: float | None
    max_tokens: float | None
    unique_tokens: float | None


@dataclass(frozen=True)
class Alternative:
    """Another law form fitted to the same runs with the same weights."""

    law: Law
    objective: float
    delta: float
    residual_sd: float
    status: FitStatus

    @classmethod
    def of(cls, solution: Solution) -> Alternative:
        """A solution in the units of the losses."""
        unit, s = solution.points.unit, solution
        return cls(s.law, s.objective * unit**2, s.delta * unit, s.residual_sd * unit, s.status)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        words = {"law": self.law.name, "params": self.law.params, "status": str(self.status)}
        return {**vars(self), **words, "delta": _finite(self.delta)}


@dataclass(frozen=True, eq=False)
class Fit(Conditions, Questions):
    """A scaling law fitted to runs; made by :func:`flops_fit.fit.fit_runs`.

    ``law`` has its constants as ``law.params``, ``objective`` is Σ w·ρ_δ of the residuals there (½r²
    convention) with Huber's ``delta``; they are of ln L where ``loss_space`` is ``"log"``, else of L.
    ``status`` says how the solver ended, of whose ``starts`` ``starts_agree`` ended at this objective;
    ``diagnostics`` are all findings with what to do about them. ``runs`` are those that were fitted,
    from the least compute up, each with the window's weight (0 < w ≤ 1) and z − model in ``weights``
    and ``residuals``; ``excluded`` those left out, each with its reason; ``outliers`` those far off the
    law, kept but bounded by δ. ``residual_sd`` is the robust relative noise of a run around the law
    (absolute where ``loss_space`` is linear).

    ``envelope`` is approach 1 on the training curves, ``None`` without them; ``isoflop`` approach 2, on
    the sizes within the window's factor of each vertex; ``alternatives`` are the other law forms on the
    same runs. ``flops`` is F(N), so that C = F(N)·D in every prediction. ``window`` says what the window
    did and ``choice`` why this law form (``None`` if it was chosen by name). ``sensitivity`` has the
    answer without each budget, without outliers, without the highest losses, at other δ, and what the
    cheaper budgets predict for the top one and two; ``residual_map`` mean residuals by compute and
    distance from the optimum, and a test for a pattern. ``hparams`` is the best learning rate and batch,
    fitted with the law; ``None`` where runs did not vary them. ``search`` is what ``law="search"`` tried.
    """

    law: Law
    objective: float
    delta: float
    loss_space: Literal["log", "linear"]
    status: FitStatus
    diagnostics: tuple[Diagnostic, ...]
    runs: RunTable
    weights: Floats
    residuals: Floats
    excluded: tuple[Excluded, ...]
    outliers: tuple[Outlier, ...]
    isoflop: IsoFLOP
    envelope: Envelope | None
    alternatives: tuple[Alternative, ...]
    flops: FlopsFunction
    starts: int
    starts_agree: int
    residual_sd: float
    window: WindowReport
    choice: Choice | None
    sensitivity: Sensitivity
    residual_map: ResidualMap
    _headline: Headline = field(repr=False)
    _evidence: Evidence = field(repr=False)
    hparams: HParamRule | None = None
    search: LawSearch | None = None
    _question: Question | None = field(default=None, repr=False)

    @property
    def trust(self) -> Literal["ok", "caution", "no"]:
        """From the worst diagnostic; critical is "no", a warning "caution"."""
        return trust_of(self.diagnostics)

    @property
    def params(self) -> dict[str, float]:
        """The law's constants."""
        return self.law.params

    @property
    def exponents(self) -> tuple[float, float]:
        """(a, b) of N* ∝ C^a and D* ∝ C^b where F(N) = k·N; their sum is 1."""
        a = self.law.exponent
        return a, 1 - a

    @cached_property
    def approaches(self) -> tuple[Approach, Approach, Approach]:
        """Approaches 1 (envelope), 2 (IsoFLOP) and 3 (surface), in this order.

        The headline, which :meth:`predict` answers with, is the surface where it converged, no
        term of its law vanished and no exponent of N or D is on its bound; else approach 2 with
        three minima or more inside the sampled sizes; else approach 1 with three sizes or more that
        win between two others; else none. The surface always answers questions of the loss.
        """
        return three_approaches(self._headline, self._evidence, self.isoflop, self.envelope)

    @property
    def noise_sd(self) -> float:
        """What one new run scatters by around the law, as root mean square residual."""
        return self._evidence.solution.noise_sd * self._evidence.solution.points.unit

    @property
    def recipe(self) -> RecipeTable:
        """The rule of ``fit.hparams`` as ``hparams=`` of a next sweep; InputError without one."""
        if self.hparams is None:
            raise InputError(
                "recipe: expected runs that vary in learning rate or batch at like N and D; these do "
                "not, so no rule was fitted. Vary them, or name a recipe."
            )
        return self.hparams.recipe

    @property
    def dof(self) -> int:
        """Fitted runs less parameters."""
        return self._evidence.solution.dof

    @property
    def largest_compute(self) -> float:
        """C of the largest fitted run."""
        return float(np.max(self.runs.flops))

    @overload
    def predict(self, C: float, level: float = ..., **caps: Unpack[Caps]) -> Prediction: ...

    @overload
    def predict(
        self, C: Sequence[float] | Floats, level: float = ..., **caps: Unpack[Caps]
    ) -> Predictions: ...

    def predict(
        self,
        C: float | Sequence[float] | Floats,
        level: float = 0.9,
        *,
        max_params: float | None = None,
        max_tokens: float | None = None,
        unique_tokens: float | None = None,
    ) -> Prediction | Predictions:
        """The compute-optimal N, D and loss at C training FLOPs, with intervals.

        The answer is the median over surfaces drawn from everything that the runs leave open: the
        law's constants, κ, a smooth misfit of the law's form (``flops_fit.fit.misfit``), and
        noise. Where the surface is not the headline (see :attr:`approaches`), N* is that of the
        headline's line, D* = C/F(N*), and there are no intervals.

        Parameters
        ----------
        C
            Training FLOPs; several give :class:`Predictions`, with ``to_pandas()``.
        level
            Probability that a central interval is meant to hold.
        max_params, max_tokens
            Caps on N and D. The prediction says which of them bind, and what they cost.
        unique_tokens
            How many different units there are, for a law of repeated data; by default all differ.
        """
        if unique_tokens is not None:
            scarce = self.with_unique(unique_tokens)
            return scarce.predict(C, level, max_params=max_params, max_tokens=max_tokens)
        if np.ndim(C) == 1:
            caps: Caps = {"max_params": max_params, "max_tokens": max_tokens}
            return Predictions(self.predict(c, level, **caps) for c in np.asarray(C).tolist())
        C = check_target(C, level)
        budget = Budget(C, self.flops, max_params, max_tokens)
        if self._headline.lines is not None:
            return predict_from_lines(self._headline, self._evidence, budget, level)
        usable = (FitStatus.OK, FitStatus.BOUND_HIT)
        others = [a.law for a in self.alternatives if a.status in usable]
        line = self.isoflop.n_line if self.isoflop.usable else None
        answer = predict(self._evidence, budget, level, others, line)
        solution = self._evidence.solution
        notes = (*scarcity_notes(solution, C, self.flops), *expert_notes(solution, self.runs))
        return replace(answer, diagnostics=(*notes, *answer.diagnostics))

    def optimal(self, C: float | Floats, flops_per_unit: FlopsLike | None = None) -> Optimum:
        """The optimum that :meth:`predict` gives at C training FLOPs, without intervals.

        ``flops_per_unit`` is F(N) of another model, as in :meth:`flops_fit.laws.Law.optimal`.
        """
        flops = self.flops if flops_per_unit is None else as_flops(flops_per_unit)
        lines = self._headline.lines
        if lines is not None:
            N, line = lines.n_line(C), lines.loss_line()
            return Optimum(N, C / flops(N), line(C) if line else float("nan"), C)
        if self._evidence.no_interval:
            return self.law.optimal(C, flops)
        compute = positive(C, "compute in FLOPs")
        best = predict_path(self._evidence, compute.ravel(), 0.9, flops)[:3, 0]
        values = (*best.reshape(3, *compute.shape), compute)
        return Optimum(*(v if compute.ndim else float(v) for v in values))

    def predict_path(self, compute: Floats, level: float = 0.9) -> Floats:
        """What :meth:`predict` says at many budgets, without its notes.

        Of shape (5, 3, budgets): N*, D*, the mean loss, D/N and the loss of one run, each as its
        value and the ends of its interval, NaN where there is none.
        """
        check_level(level)
        if self._headline.lines is None:
            return predict_path(self._evidence, np.asarray(compute), level)
        answers = [self.predict(float(c), level) for c in compute]
        values = [[a[q] for a in answers] for q in (*QUANTITIES, "expected_loss")]
        return np.array([[v, *[[np.nan] * len(compute)] * 2] for v in values])

    def estimate(self, quantity: Callable[[Law], float], level: float = 0.9) -> Estimate:
        """Any quantity of the law, with an interval made as those of :meth:`predict`.

        ``quantity`` maps a law to a number: ``lambda law: law.optimal(1e22, fit.flops).loss``.
        It is called for laws near the fitted one too. InputError where it is NaN.

        Examples
        --------
        >>> from flops_fit import fit_runs, reference
        >>> fit = fit_runs(reference.runs("llama3_2024"))
        >>> gain = fit.estimate(lambda law: law.loss(8e9, 1e12) / law.loss(8e9, 2e12))
        >>> bool(gain.interval[0] < gain.value < gain.interval[1])
        True
        """
        return estimate(self._evidence, quantity, level)

    def axis(self, name: str, compute: float | None = None, level: float = 0.9) -> AxisEffect:
        """What a further argument that varied over the runs does to the loss, by default at the largest C.

        ``name`` is one of ``runs.texts``: a column of a few values, or an argument of ``Grid(axes=...)``.
        ln L is that of the law and a smooth part: c₁u + c₂u² + c₃u·ln C of a number, u its logarithm where
        it spans a factor of 1.5, or a constant for each text. It is fitted to the law's residuals beside
        lines in ln N and ln C, with Student's intervals; of losses of any sign relative to their mean size.
        InputError where there are too few runs.
        """
        check_level(level)
        loss = self.runs.loss
        size = loss if np.min(loss) > 0 else np.full_like(loss, np.mean(np.abs(loss)))
        relative = self.residuals if self.loss_space == "log" else self.residuals / size
        at = self.largest_compute if compute is None else compute
        return axis_effect(self.runs, relative, name, at, level)

    def bootstrap(
        self, n: int = 1000, kind: Literal["case", "wild", "parametric"] = "case", seed: int = 0
    ) -> Floats:
        """The law's constants over ``n`` refits to resampled runs, shape (n, len(law.params)).

        A parameter that the runs do not determine stays where the fit left it. Runs, never whole
        budgets, are resampled. Outside the κ family a refit takes at most 25 steps from the fit.
        """
        laws = drawn_laws(self._evidence.solution, n, kind, seed)
        return np.array([list(law.params.values()) for law in laws]).reshape(n, -1)

    def to_dict(self) -> dict[str, Any]:
        """Everything that matters as plain values for JSON; ``None`` for what is not finite."""
        runs = [
            {**row, "weight": float(w), "residual": float(r)}
            for row, w, r in zip(self.runs.to_dicts(), self.weights, self.residuals, strict=True)
        ]
        same = (
            "objective", "loss_space", "trust", "starts", "starts_agree", "residual_sd", "diagnostics",
            "excluded", "outliers", "isoflop", "envelope", "approaches", "alternatives", "window",
            "choice", "sensitivity", "residual_map", *(() if self.hparams is None else ("hparams",)),
            *(() if self.search is None else ("search",)),
        )  # fmt: skip
        record = {
            "law": self.law.name,
            "formula": self.law.formula,
            "params": self.law.params,
            "delta": _finite(self.delta),
            "status": self.status.name.lower(),
            "status_text": str(self.status),
            "flops": self.flops.description,
            "flops_per_unit": flops_to_dict(self.flops, self.runs.params),
            "unit": self.runs.unit,
            "runs": runs,
            **{name: getattr(self, name) for name in same},
        }
        return dict(finite_json(record))

    def summary(self, level: float = 0.9) -> str:
        """The law, its constants with standard deviation and interval, its fit, its trust."""
        check_level(level)
        return summary(self, level)

    def plot(self, name: str = "isoflop", ax: Axes | None = None) -> Figure:
        """Draw one figure, by default the runs of each budget with the law; into ``ax`` if given.

        ``flops_fit.report.FIGURES`` has the names. InputError where the runs have no data for it.
        """
        from flops_fit.report.figures import draw_one

        return draw_one(self, name, ax)

    def report(self, path: str | Path = "report.html") -> Path:
        """Write the answer as one page: :func:`flops_fit.write_report`."""
        from flops_fit.report.page import write_report

        return write_report(self, path)

    def save(self, path: str | Path = "fit.json") -> Path:
        """Write the fit as JSON that :func:`flops_fit.load_fit` makes it again from; its path."""
        made_of = self._question.to_dict() if self._question else None
        write_json(path := Path(path), {**self.to_dict(), "made_of": made_of})
        return path

    def __repr__(self) -> str:
        return f"<Fit of the {self.law.name} law to {len(self.runs)} runs, trust: {self.trust}>"

    def __str__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        return fit_card(self)


def _finite(value: float) -> float | str:
    return value if np.isfinite(value) else "inf"
