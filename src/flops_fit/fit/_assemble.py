"""Everything about a fit in one value: diagnostics, sensitivity, headline."""

from __future__ import annotations

from flops_fit.fit._diagnose import diagnose, find_outliers
from flops_fit.fit._envelope import envelope_diagnostics
from flops_fit.fit._fit import Alternative, Fit
from flops_fit.fit._forms import Fitted, Task
from flops_fit.fit._headline import choose_headline, headline_diagnostic
from flops_fit.fit._isoflop import IsoFLOP
from flops_fit.fit._repeated import repeat_findings
from flops_fit.fit._residuals import residual_diagnostics, residual_map
from flops_fit.fit._sensitivity import sensitivity, sensitivity_diagnostics
from flops_fit.fit._window import WindowReport
from flops_fit.records import Diagnostic

__all__ = ["assemble"]


def assemble(
    task: Task,
    fitted: Fitted,
    report: WindowReport,
    shape: IsoFLOP,
) -> Fit:
    """Everything about the fit in one value."""
    chosen, unit = fitted.chosen, task.points.unit
    kept = chosen.weights > 0
    found = [*task.found, *repeat_findings(chosen)]
    found += diagnose(chosen, task.table, shape, task.flops)
    found += _form_diagnostics(fitted, report)
    moved = sensitivity(chosen, task.table, task.flops)
    found += sensitivity_diagnostics(moved)
    residuals = residual_map(chosen, task.table, task.flops)
    found += residual_diagnostics(residuals, chosen, task.table)
    front = task.front
    headline = choose_headline(chosen, shape, front)
    found.append(headline_diagnostic(headline))
    found += envelope_diagnostics(front) if front else []
    reason = f"outside ×{report.factor:g} of the fitted optimum" if report.used else ""
    used = task.table.select(kept, reason)
    return Fit(
        law=chosen.law,
        objective=chosen.objective * unit**2,
        delta=chosen.delta * unit,
        loss_space="log" if task.points.log else "linear",
        status=chosen.status,
        diagnostics=tuple(found),
        runs=used,
        weights=chosen.weights[kept],
        residuals=chosen.residuals[kept] * unit,
        excluded=used.excluded,
        outliers=find_outliers(chosen, task.table),
        isoflop=shape,
        envelope=front,
        alternatives=tuple(
            Alternative(
                s.law, s.objective * unit**2, s.delta * unit, s.residual_sd * unit, s.status
            )
            for s in fitted.others
        ),
        flops=task.flops,
        starts=chosen.starts,
        starts_agree=chosen.agree,
        residual_sd=chosen.residual_sd * unit,
        window=report,
        choice=fitted.choice,
        sensitivity=moved,
        residual_map=residuals,
        _solution=chosen,
        _headline=headline,
        _rival=fitted.rival,
    )


def _form_diagnostics(fitted: Fitted, report: WindowReport) -> list[Diagnostic]:
    found = []
    if fitted.choice is not None:
        found.append(
            Diagnostic("law_choice", "ok", f"{fitted.chosen.law.name} law: {fitted.choice.reason}")
        )
    if report.used and report.params_with is not None:
        ratio = report.params_with / report.params_without
        apart = max(ratio, 1 / ratio)
        found.append(
            Diagnostic(
                "window",
                "warning" if apart > 2 else "note",
                f"fitted to {report.kept} runs within ×{report.factor:g} of the optimum"
                f"{', counting √(C/C_max)' if report.tilt else ''}: at C = "
                f"{report.compute:.3g} N* = {report.params_with:.3g}, from all runs alike "
                f"{report.params_without:.3g}",
                "the far runs disagree with the near ones: look at both" if apart > 2 else "",
            )
        )
    elif report.factor is not None:
        text = f"no ×{report.factor:g} window around the optimum: {report.reason}"
        found.append(Diagnostic("window", "note", text))
    return found
