"""Answers from runs: ``fit``, ``report``, ``compare`` two recipes, and the ``next`` runs."""

from __future__ import annotations  # evaluated, they would import what --help does without

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import flops_fit
from flops_fit.cli import answer
from flops_fit.cli.answer import Answer, Columns, Curves, Form, Json, Predict, flops_option, option
from flops_fit.errors import InputError
from flops_fit.text import format_count, format_percent, markdown_table

_MAX_ROWS = 10  # of the table, without --predict


def _answers(
    fit: flops_fit.Fit, predict: Sequence[float] | None, source: Path
) -> tuple[list[flops_fit.Prediction], str, list[flops_fit.Diagnostic]]:
    """Answers with words and findings, by default at the runs' own budgets, or a few of many."""
    import numpy as np

    own = np.unique(fit.runs.budget)
    few = own if len(own) <= _MAX_ROWS else np.geomspace(own[0], own[-1], 5)
    predictions = [fit.predict(float(c)) for c in predict or few.tolist()]
    return predictions, *answer.summary(fit, predictions, answer.plan_findings(source))


def fit(
    runs: answer.Runs,
    law: Form = "auto",
    predict: Predict = None,
    column: Columns = None,
    curves: Curves = None,
    group: Annotated[str | None, option("group")] = None,
    share: Annotated[list[str] | None, option("share")] = None,
    axis: Annotated[list[str] | None, option("axis")] = None,
    max_total_params: answer.TotalCap = None,
    batch: Annotated[
        float | None, option("given_batch", "--batch", parser=answer.flops_number)
    ] = None,
    report: answer.Page = None,
    as_json: Json = False,
) -> Answer:
    """Fit a scaling law to a table of runs or to those of a sweep, and answer."""
    if group is not None:
        if report is not None:
            raise InputError("expected no --report with --group: write a page of each group alone.")
        if axis or max_total_params is not None or batch is not None:
            raise InputError(
                "expected no --axis, no --max-total-params and no --batch with --group: ask a group alone."
            )
        names = answer.column_names(column)
        grouped = flops_fit.fit_runs(
            runs, law, group=group, share=share or None, columns=names, curves=curves
        )
        return _by_group(grouped, predict)
    if share:
        raise InputError("--share: expected --group beside it, the groups that share constants.")
    fitted = answer.read_fit(runs, law, column, curves)
    if batch is not None:
        fitted = fitted.with_batch(batch)
    predictions, words, findings = _answers(fitted, predict, runs)
    shown = [
        flops_fit.report.chinchilla_table(predictions, fitted.trust),
        f"\n{answer.law_line(fitted.law)} {fitted.status}\n",
        flops_fit.report.approaches_table(fitted),
        f"\n{words}",
    ]
    if rule := flops_fit.report.rule_table(fitted, predictions):
        shown.insert(1, f"\n{rule.markdown()}")
    if recognised := fitted.runs.recognised:
        derived = [n for n in fitted.runs.notes if n.rstrip(".") not in recognised]
        shown += ["\nColumns read:", *(f"  {line}" for line in (*recognised, *derived))]
    if fitted.search is not None:
        shown.append(f"\n{fitted.search}")
    axes = [fitted.axis(name) for name in axis or ()]
    sparse = answer.best_experts(fitted, predict or [fitted.largest_compute], max_total_params)
    shown += [f"\n{effect}" for effect in (*axes, *sparse)]
    if batches := _batches(fitted, predictions):
        shown.append(f"\n{batches}")
    document: dict[str, Any] = {"fit": fitted, "predictions": predictions, "report": None}
    document |= ({"axes": axes} if axes else {}) | ({"experts": sparse} if sparse else {})
    unwritten = None
    if report is not None:
        page: dict[str, Any] = {"predictions": predictions, "diagnostics": findings}
        page["title"] = _title(runs)
        unwritten = answer.attempt(lambda: flops_fit.write_report(fitted, report, **page))
        if unwritten is None:
            shown.append(f"\nReport: {report}")
            document["report"] = str(report)
    good = answer.relied_on(fitted, findings)
    return Answer(tuple(shown), document, good, unwritten=unwritten)


def _title(runs: Path) -> str:
    return f"Compute-optimal training: {runs.resolve().name}"


def _batches(fitted: flops_fit.Fit, predictions: Sequence[flops_fit.fit.Prediction]) -> str:
    """The best batch at each optimum, and up to which one the loss is within 1 %; of a law of steps."""
    if not isinstance(fitted.law, flops_fit.laws.Steps):
        return ""
    unit = fitted.runs.batch_unit or fitted.runs.unit
    head = ["FLOPs", f"Best batch, {unit}", "Loss within 1 % up to"]
    return markdown_table([head, *(_batch_row(fitted, p) for p in predictions)])


def _batch_row(fitted: flops_fit.Fit, p: flops_fit.fit.Prediction) -> list[str]:
    N, D = p.optimal_params, p.optimal_tokens

    def best(law: Any) -> float:
        return float(law.best_batch(D))

    def largest(law: Any) -> float:
        return float(law.largest_batch(N, D, 0.01))

    spans = (_with_span(fitted.estimate(quantity)) for quantity in (best, largest))
    return [f"{p.target_compute:.3g}", *spans]


def _with_span(estimate: flops_fit.fit.Estimate) -> str:
    low, high = (format_count(v) for v in estimate.interval or (math.nan, math.nan))
    return f"{format_count(estimate.value)} ({low}–{high})"


def _by_group(grouped: flops_fit.fit.GroupFit, predict: Sequence[float] | None) -> Answer:
    """The constants of each group, and a table of its answers."""
    shown, predictions, good = [repr(grouped)], {}, True
    for name, fit in grouped.fits.items():
        answers = [fit.predict(c) for c in predict or [fit.largest_compute]]
        findings = [d for p in answers for d in p.diagnostics]
        shown.append(f"\n{name}\n\n{flops_fit.report.chinchilla_table(answers, fit.trust)}")
        shown += dict.fromkeys(flops_fit.fit.prediction.serious(findings))
        predictions[name] = answers
        good = good and answer.relied_on(fit, findings)
    document = {"fit": grouped, "predictions": predictions, "report": None}
    return Answer(tuple(shown), document, good)


def report(
    runs: answer.Runs,
    output: Annotated[Path | None, option("page_path", callback=answer.output)] = None,
    predict: Predict = None,
    law: Form = "auto",
    column: Columns = None,
    curves: Curves = None,
    as_json: Json = False,
) -> Answer:
    """Write the answer with its figures and findings as one HTML page."""
    fitted = answer.read_fit(runs, law, column, curves)
    predictions, words, findings = _answers(fitted, predict, runs)
    path = output or (runs / "report.html" if os.path.isdir(runs) else Path("report.html"))
    sweep = answer.read_runs(runs) or ()
    page: dict[str, Any] = {
        "predictions": predictions, "diagnostics": findings, "runs": sweep, "title": _title(runs),
        "curves": flops_fit.store.training_curves(runs, sweep),
    }  # fmt: skip
    unwritten = answer.attempt(lambda: flops_fit.write_report(fitted, path, **page))
    document = {
        "report": str(path) if unwritten is None else None, "trust": fitted.trust, "predictions": predictions,
        "findings": answer.serious(fitted, findings),
    }  # fmt: skip
    shown = (
        *([f"Report: {path}\n"] if unwritten is None else []),
        flops_fit.report.chinchilla_table(predictions, fitted.trust),
        f"\n{words}",
    )
    return Answer(shown, document, answer.relied_on(fitted, findings), unwritten=unwritten)


def compare(
    first: Annotated[Path, answer.argument("first")],
    second: Annotated[Path, answer.argument("second")],
    at: Annotated[float | None, flops_option("at")] = None,
    level: Annotated[float, option("compare_level")] = 0.9,
    speeds: Annotated[tuple[float, float] | None, option("speeds")] = None,
    dollars_per_hour: Annotated[tuple[float, float] | None, option("both_prices")] = None,
    gate: Annotated[float | None, option("gate")] = None,
    law: Form = "auto",
    column: Columns = None,
    report: answer.Page = None,
    as_json: Json = False,
) -> Answer:
    """Say how much compute one recipe needs to reach the loss of another.

    Both need the same held-out data and the same unit.
    """
    baseline, other = (answer.read_fit(path, law, column) for path in (first, second))
    asked: dict[str, Any] = {"level": level, "speeds": speeds, "gate": gate}
    asked["dollars_per_hour"] = dollars_per_hour
    comparison = flops_fit.compare(baseline, other, at, **asked)
    text = str(comparison)
    for name, path in (("the second", second), ("the first", first)):
        text = text.replace(name, str(path), 1)
    trust = f"First: {first}, trust: {baseline.trust}. Second: {second}, trust: {other.trust}."
    document = {**vars(comparison), "first": str(first), "second": str(second)}
    findings = [f"  • {d}" for d in comparison.diagnostics]
    unwritten = None
    if report is not None:
        names = (
            (first.stem, second.stem) if first.stem != second.stem else (str(first), str(second))
        )
        unwritten = answer.attempt(
            lambda: flops_fit.report.write_comparison(
                baseline, other, report, at, names=names, **asked
            )
        )
        findings += [f"Report: {report}"] if unwritten is None else []
    good = all(answer.relied_on(fit, comparison.diagnostics) for fit in (baseline, other))
    return Answer((text, trust, *findings), document, good, unwritten=unwritten)


def next_(
    runs: answer.Runs,
    target: Annotated[float, flops_option("target")],
    spend: Annotated[float, flops_option("spend")],
    batch: Annotated[int, option("batch", min=1)] = 6,
    max_run: Annotated[float | None, flops_option("max_run")] = None,
    law: Form = "auto",
    column: Columns = None,
    out: answer.Csv = None,
    as_json: Json = False,
) -> Answer:
    """Propose the next batch of runs: those that narrow N* at a target budget most."""
    fitted = answer.read_fit(runs, law, column)
    proposal = flops_fit.adaptive.next_experiments(
        fitted, target_compute=target, budget_flops=spend, batch=batch, max_run_flops=max_run
    )
    unit = fitted.runs.unit
    halves = (proposal.now, proposal.after)
    now, after = (format_percent(h) if math.isfinite(h) else "none" for h in halves)
    rows = [["FLOPs", "N (parameters)", f"D ({unit})", "D/N"]]
    for run in proposal.runs:
        N, D = run["params"], run["tokens"]
        sizes = (format_count(v, zeros=True) for v in (N, D, D / N))
        rows.append([f"{run['flops']:.3g}", *sizes])
    shown = [
        f"{markdown_table(rows)}\n",
        f"{proposal.cost:.3g} FLOPs in all. The 90 % interval of N* at {target:.3g} FLOPs: "
        f"{now} now, about {after} with these runs.",
        f"The loss is off the law's form by about {100 * proposal.misfit:.2g} %.",
    ]
    document = {
        "runs": list(proposal.runs), "unit": unit, "cost": proposal.cost,
        "target_compute": proposal.target_compute, "half_width_now": proposal.now,
        "half_width_after": proposal.after, "misfit": proposal.misfit, "trust": fitted.trust,
        "findings": answer.serious(fitted, proposal.diagnostics),
    }  # fmt: skip
    shown += flops_fit.fit.prediction.serious(proposal.diagnostics)
    if fitted.trust == "no":
        shown.append("Do not rely on this fit: flops-fit fit says why.")
    unwritten = None
    if out is not None:
        unwritten = answer.attempt(lambda: _write_runs(proposal, out))
        shown += [f"Runs: {out}"] if unwritten is None else []
    good = answer.relied_on(fitted, proposal.diagnostics)
    return Answer(tuple(shown), document, good, unwritten=unwritten)


def _write_runs(proposal: flops_fit.adaptive.Proposal, out: Path) -> None:
    text = flops_fit.files.csv_text(proposal.runs, ["params", "tokens", "flops"])
    with flops_fit.files.output_errors(out, "--csv"):
        flops_fit.files.write_output(out, text)


def forecast(
    curve: Annotated[Path, answer.argument("curve")],
    schedule: Annotated[str, option("schedule")] = "cosine",
    end: Annotated[float | None, option("end", parser=answer.flops_number)] = None,
    prior: Annotated[list[Path] | None, option("prior")] = None,
    level: Annotated[float, option("compare_level")] = 0.9,
    as_json: Json = False,
) -> Answer:
    """Say at what loss a run under way will end, from its curve; or each of a sweep, from its folder."""
    if not os.path.isdir(curve):
        earlier = [(str(path), schedule) for path in prior or ()]
        found = flops_fit.forecast(str(curve), schedule, end=end, prior=earlier, level=level)
        return Answer((str(found),), _document(found))
    plan = flops_fit.store.planned(curve)
    done = {r.experiment.id: r.state for r in flops_fit.store.recorded_runs(curve)}
    under_way = [e for e in plan if done.get(e.id) not in flops_fit.plan.io.FINAL]
    earlier_runs = [e for e in plan if done.get(e.id) == "completed"]
    ends = flops_fit.store.forecast_ends(curve, under_way, earlier_runs)
    lines = [f"{e.label}: {ends[e.id]}" for e in under_way if e.id in ends]
    shown = lines or ["No run is under way whose curve can tell where it will end."]
    return Answer(tuple(shown), {key: _document(end) for key, end in ends.items()})


def _document(found: flops_fit.Forecast) -> dict[str, Any]:
    names = ("value", "interval", "level", "end", "seen", "constants")
    return {name: getattr(found, name) for name in names}
