"""The answer of a sweep, with everything it rests on."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from flops_fit.adaptive.sweep import AdaptiveResult
from flops_fit.errors import InputError
from flops_fit.fit.fit import Caps, Fit
from flops_fit.fit.prediction import Prediction
from flops_fit.plan.export import export_run
from flops_fit.plan.planner import ENOUGH_TO_TUNE
from flops_fit.plan.sweep_plan import SweepPlan
from flops_fit.recipes.resolve import RecipeTable, resolve_recipe
from flops_fit.records import SAID_BY_FIT, Diagnostic, Run
from flops_fit.report.figures import FIGURES, ReportData, draw_figures, save_figures
from flops_fit.report.page import write_page
from flops_fit.report.table import answer_card, answer_in_words, chinchilla_table
from flops_fit.store.read import TrainingCurve, training_curves
from flops_fit.tune.effects import (
    Collapse,
    WithoutTuning,
    collapse,
    without_climbing,
    without_tuning,
)
from flops_fit.tune.joint import Climbed
from flops_fit.tune.tuning import Tuning

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Result:
    """How big, on how much data, at what loss, and how sure; prints as all of that.

    ``plan``, ``runs`` and ``fit`` are the stages it came from; ``fit.trust`` says in a word whether to rely
    on it. ``output_dir`` has the records; figures and the report go there. ``adaptive`` is what an adaptive
    sweep decided, ``tuning`` what was found about hyper-parameters before the sweep, and ``climbed`` what a
    sweep that tuned itself decided, if there was one.
    """

    plan: SweepPlan
    runs: tuple[Run, ...]
    fit: Fit
    output_dir: Path
    adaptive: AdaptiveResult | None = None
    tuning: Tuning | None = None
    climbed: Climbed | None = None

    @property
    def steps(self) -> tuple[str, ...]:
        """One line a decision of an adaptive sweep, or of one that tuned itself; none for others."""
        made = self.adaptive or self.climbed
        return () if made is None else made.steps

    @property
    def recipe(self) -> RecipeTable:
        """The rule for rate and batch as ``hparams=`` of a next sweep: ``fit.recipe``."""
        return self.fit.recipe

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """Every finding about the fit, hyper-parameters, training curves and the plan."""
        findings = list(self.fit.diagnostics)
        trained = {r.experiment.hparams.recipe for r in self.runs if r.device != "mock"}
        recipes = ", ".join(sorted(trained - {""}))
        if self.tuning is not None:
            findings += self.tuning.diagnostics
        if self.tuning is not None or self.climbed is not None:
            findings.append(self.without_tuning.diagnostic)
        elif recipes:
            text = f"Hyper-parameters are those of {recipes}; whether they are good was not tested."
            trunks = any(r.experiment.trunk for r in self.runs)
            way = "pilot" if trunks or len(self.runs) < ENOUGH_TO_TUNE else "joint"
            findings.append(Diagnostic("untuned", "note", text, f'tune="{way}"'))
        if (self.tuning is not None or recipes) and self.collapse is not None:
            findings += self.collapse.diagnostics
        planned = (d for d in self.plan.diagnostics if d.code not in SAID_BY_FIT)
        return (*findings, *planned)

    @cached_property
    def collapse(self) -> Collapse | None:
        """The training curves on one scale; ``None`` if the runs left too few of them."""
        known = all(d.code != "E_unidentified" for d in self.fit.diagnostics)
        floor = float(self.fit.law.params.get("E", 0.0)) if known else 0.0
        return collapse(self._curves, floor)

    @cached_property
    def _curves(self) -> list[TrainingCurve]:
        return training_curves(self.output_dir, self.runs)

    @cached_property
    def without_tuning(self) -> WithoutTuning:
        """What the law would have said with the recipe as it was; InputError if nothing was tuned."""
        if self.tuning is not None:
            return without_tuning(self.tuning, self.fit)
        if self.climbed is None:
            raise InputError(
                'tuning: expected tune="joint", "pilot" or "per-size"; nothing was tuned.'
            )
        recipe = self.plan.require_planner("without_tuning").factory.recipe
        return without_climbing(self.fit, self.climbed.experiments, recipe)

    def save(self) -> Path:
        """Write the fit with all its findings to ``output_dir/fit.json``: ``Fit.save``; its path."""
        return self.fit.save(self.output_dir / "fit.json")

    def predict(self, compute: float, level: float = 0.9, **caps: Unpack[Caps]) -> Prediction:
        """The optimal N and D, and the loss of the mean of runs and of one run, at ``compute`` FLOPs.

        With ``max_params`` or ``max_tokens`` the best that they allow; the prediction's ``binds`` names
        those that bind.
        """
        return self.fit.predict(compute, level, **caps)

    def export(self, path: str | Path, compute: float) -> Path:
        """Write how to train the best model of ``compute`` FLOPs, as the planner would; returns the path.

        The nearest size that the model has, tokens, steps, batch, learning rate, schedule and warmup, by
        the names of a command's placeholders: as JSON, TOML, YAML, or overrides in a ``.txt``, by the ending.
        InputError where the plan was read from a file; PlanError where whole steps miss the budget.
        """
        factory, best = self.plan.require_planner("export").factory, self.predict(compute)
        if self.climbed is not None:
            factory = replace(factory, recipe=resolve_recipe(self.recipe))
        near = (
            None if factory.spec.size_param is None else factory.spec.nearest(best.optimal_params)
        )
        planned = min(
            self.plan.experiments, key=lambda e: abs(math.log(e.params.total / best.optimal_params))
        )
        size = planned.size if near is None else near[0]
        more = {"expected_loss": best.expected_loss, "trust": self.fit.trust}
        return export_run(factory.make(compute, size, reads=False), Path(path), more)

    def chinchilla_table(
        self, compute_budgets: Iterable[float] | None = None, level: float = 0.9
    ) -> str:
        """A Markdown table of optima with intervals, by default at the sweep's own budgets."""
        data = self._report_data
        if compute_budgets is None and level == data.level:
            return chinchilla_table(data.answers, self.fit.trust)
        budgets = self.plan.budgets if compute_budgets is None else compute_budgets
        return chinchilla_table([self.predict(c, level) for c in budgets], self.fit.trust)

    def summary(self) -> str:
        """The answer at the largest budget in words, and whether to rely on it."""
        data = self._report_data
        return answer_in_words(self.fit, data.answers[-1], data.findings)

    def plot(self, show: bool = True) -> list[Figure]:
        """All figures, saved under ``output_dir/plots`` as PNG with their data as CSV, and returned.

        With ``show`` they also open in windows, where there is a display. To save them otherwise,
        or to draw into axes of your own, see :mod:`flops_fit.report`.
        """
        import matplotlib
        from matplotlib.backends.registry import BackendFilter, backend_registry

        interactive = backend_registry.list_builtin(BackendFilter.INTERACTIVE)  # type: ignore[no-untyped-call]  # it has no types
        windows = show and matplotlib.get_backend().lower() in interactive
        data = self._report_data
        drawn = draw_figures(data, managed=True) if windows else data.drawn
        folder = self.output_dir / "plots"
        save_figures(drawn, folder)
        for name in {kind.name for kind in FIGURES} - {d.kind.name for d in drawn}:
            for ending in ("png", "csv"):  # of an earlier sweep in this folder
                (folder / f"{name}.{ending}").unlink(missing_ok=True)
        if windows:
            from matplotlib import pyplot

            pyplot.show()
        return [d.figure for d in drawn]

    def report(self, path: str | Path | None = None) -> Path:
        """Write the answer as one self-contained HTML page; returns its path."""
        return write_page(self._report_data, path or self.output_dir / "report.html")

    @cached_property
    def _report_data(self) -> ReportData:
        """What figures and page show, predicted and drawn once."""
        models = {e.model.rpartition(".")[2] for e in self.plan.experiments}
        dataset = getattr(getattr(self.plan.task, "data", None), "dataset", None)
        data = "" if dataset is None else f" on {type(dataset).__name__}"
        target = () if self.adaptive is None else (self.adaptive.target_compute,)
        return ReportData(
            self.fit,
            predictions=tuple(self.predict(c) for c in (*self.plan.budgets, *target)),
            title=f"Compute-optimal {', '.join(sorted(models))}{data}",
            diagnostics=self.diagnostics[len(self.fit.diagnostics) :],
            runs=self.runs,
            provenance={
                "Records": self.output_dir.resolve().name,
                "Decisions": " ".join(self.steps),
            },
            tuning=self.tuning,
            collapse=self.collapse,
            curves=self._curves,
        )

    def __repr__(self) -> str:
        return f"<Result of {len(self.runs)} runs in {self.output_dir}, trust: {self.fit.trust}>"

    def _repr_html_(self) -> str:
        return answer_card(self.fit, self._report_data.answers, self._report_data.findings)

    def __str__(self) -> str:
        return f"{self.chinchilla_table()}\n\n{self.summary()}"
