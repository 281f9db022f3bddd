"""From a table of runs to a fit: read, check, solve inside the window, choose, diagnose."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypedDict, Unpack, overload

import numpy as np
from numpy.typing import ArrayLike

from flops_fit.errors import (
    FitError,
    FlopsFitError,
    InputError,
    InputTypeError,
    TableError,
    check_choice,
    is_number,
)
from flops_fit.fit import checks, groups, repeated
from flops_fit.fit.approaches import choose_headline
from flops_fit.fit.conditions import read_for, with_covariates
from flops_fit.fit.experts import as_asked, by_active, check_experts, expert_findings
from flops_fit.fit.export import Question
from flops_fit.fit.fit import Alternative, Fit
from flops_fit.fit.groups import GroupFit
from flops_fit.fit.hparam_rule import HParamRule
from flops_fit.fit.intervals import Evidence
from flops_fit.fit.minima import envelope, isoflop
from flops_fit.fit.misfit_mean import Known, check_known
from flops_fit.fit.power import flops_of
from flops_fit.fit.repeated import FEW_EPOCHS, epochs_of
from flops_fit.fit.search import search_forms
from flops_fit.fit.selection import sensitivity, sensitivity_diagnostics, sound_runs
from flops_fit.fit.shared_errors import shared_error
from flops_fit.fit.solver import DeltaRule, one_blas_thread
from flops_fit.fit.surface import points_of
from flops_fit.fit.surface_solver import Choice
from flops_fit.fit.table_checks import check_runs
from flops_fit.fit.varied import HParamNames, check_hparams
from flops_fit.fit.window import FitProblem, Fitted, WindowReport, WindowRule, run_weights
from flops_fit.flops.functions import FlopsFunction
from flops_fit.laws import LAWS
from flops_fit.laws.kappa import Hoffmann, Kappa, Muennighoff
from flops_fit.laws.law import FlopsLike, Law
from flops_fit.table.curves import Curves
from flops_fit.table.run_table import RunTable

_FEWEST_REPEATING, _REPEATING_SHARE = 5, 0.1  # runs of many epochs, for a law of them


class FitOptions(TypedDict, total=False):
    """Options of :func:`fit_runs`."""

    delta: DeltaRule
    loss_space: Literal["log", "linear"]
    window: WindowRule
    weights: Literal["equal", "loss_se"] | ArrayLike
    flops_per_unit: FlopsLike | None
    n: Literal["total", "non_embedding", "active"]
    fixed: Mapping[str, float] | None
    prior: Mapping[str, tuple[float, float]] | None
    share: Sequence[str] | None
    columns: Mapping[str, str] | None
    hparams: HParamNames
    curves: Any


@overload
def fit_runs(
    runs: Any, law: str | type[Law] = ..., *, group: None = ..., **options: Unpack[FitOptions]
) -> Fit: ...


@overload
def fit_runs(
    runs: Any, law: str | type[Law] = ..., *, group: str | ArrayLike, **options: Unpack[FitOptions]
) -> GroupFit: ...


def fit_runs(
    runs: Any,
    law: str | type[Law] = "auto",
    *,
    delta: DeltaRule = "mad",
    loss_space: Literal["log", "linear"] = "log",
    window: WindowRule = "auto",
    weights: Literal["equal", "loss_se"] | ArrayLike = "equal",
    flops_per_unit: FlopsLike | None = None,
    n: Literal["total", "non_embedding", "active"] = "total",
    fixed: Mapping[str, float] | None = None,
    prior: Mapping[str, tuple[float, float]] | None = None,
    group: str | ArrayLike | None = None,
    share: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
    hparams: HParamNames = "auto",
    curves: Any = None,
) -> Fit | GroupFit:
    """Fit a scaling law L(N, D) to runs (approach 3), with approaches 1 and 2 beside it.

    Minimises Σ w·ρ_δ(ln L − ln L̂(N, D)), ρ_δ Huber's loss. A poor fit is no error: read
    ``fit.status``, ``fit.trust`` and ``fit.diagnostics``.

    Parameters
    ----------
    runs
        Anything :meth:`flops_fit.table.RunTable.read` accepts: a path, a DataFrame, dicts, runs.
    law
        ``"auto"``: the κ-law where the runs tell κ from 1 (5 % level), else the additive law; the
        law of repeated data where a tenth of the runs or more see their data over four times and
        determine it.
        ``"hoffmann"``, ``"kappa"``, ``"kaplan"``, ``"muennighoff"`` (repeated data; needs a column
        ``unique_tokens``), ``"overfit"`` (the same with runs whose loss rises again),
        ``"experts"`` (mixtures of experts; needs columns ``params`` and ``active_params``), ``"steps"``
        (what a batch costs; needs a column of batches, each run at its best rate), or a class of your
        own, a :class:`flops_fit.laws.Law`. ``"search"``: the form that predicts the largest budgets best
        from the others; ``fit.search`` has the table.
    delta
        Huber's δ: ``"mad"`` takes 1.345 robust standard deviations of the residuals, a number
        fixes it (1e-3 reproduces Hoffmann et al. 2022), ``inf`` is least squares.
    loss_space
        Residuals of ln L, or of L.
    window
        ``"auto"`` fits runs within ×5 of the fitted N* of their own compute where enough remain,
        each counting √(C/C_max), and all runs alike of laws with covariates. A number sets the
        factor, and all inside count alike; ``None`` fits all runs alike.
    weights
        How much each run counts inside the window: ``"equal"``; ``"loss_se"``, by the standard
        errors of the losses where they exceed what runs scatter by anyway; or one number a run.
    flops_per_unit
        F(N): a factor k, a function of N or a FlopsFunction. By default from the table.
    n
        Which count of parameters N is; N_active where ``law`` is ``"experts"``.
    fixed
        Constants that are known exactly and held: ``{"E": 1.6}``; of the additive law and the κ-law
        ``E``, ``alpha``, ``beta`` and ``kappa``, of others any.
    prior
        Constants of the additive law or the κ-law known with a mean and a standard deviation,
        ``{"E": (1.6, 0.1)}``: replaces the default prior.
    group
        Fits one law to several groups of runs and returns a :class:`GroupFit`: the heading of a
        column of text, or one label a run. Runs without a label are left out. If ``law`` is
        ``"auto"`` and one group needs κ, all have it.
    share
        The constants that all groups share, by default every exponent: ``alpha``, ``beta`` and, in
        the κ-law, ``kappa``.
    columns
        Names of columns where they are unusual: ``{"params": "n_weights"}``.
    hparams
        Fits the best learning rate and batch with the law: ``"auto"`` where runs of like N and D vary
        them, else the names among ``"lr"`` and ``"batch_units"``, a
        :class:`flops_fit.fit.valley.ValleyPrior` of your own, or ``None`` to take losses as they are.
        See ``fit.hparams``.
    curves
        Training curves for approach 1 only: anything :meth:`flops_fit.table.Curves.read` accepts.

    Raises
    ------
    FitError
        The runs determine no law; the message says which to add.
    TableError
        The table lacks a column, or holds text.

    Examples
    --------
    >>> from flops_fit import reference
    >>> fit = fit_runs(reference.runs("llama3_2024"))
    >>> fit.law.name
    'kappa'
    """
    form = known_law(law)
    known = check_known(fixed, prior, form)
    if form is None and "kappa" in {*known.fixed, *known.prior}:
        form = Kappa
    check_options(delta, loss_space, window, n)
    check_hparams(hparams)
    if hparams == "auto" and form is not None and "batch_units" in form.covariates:
        hparams = None  # what a batch costs is of the law
    by_experts = form is not None and "sparsity" in form.covariates
    if by_experts and n == "non_embedding":
        raise InputError(
            'n: expected "active" or no n= with a law of experts; got "non_embedding".'
        )
    table = read_for(form, runs, columns)
    options = {
        "delta": delta, "loss_space": loss_space, "window": window, "weights": weights,
        "flops_per_unit": flops_per_unit, "n": n, "hparams": hparams, "curves": curves,
        "fixed": dict(fixed or {}) or None, "prior": dict(prior or {}) or None,
    }  # fmt: skip
    question = Question(law if isinstance(law, str) else law.name, table, options)
    if n == "non_embedding":
        if table.non_embedding is None:
            raise TableError(
                "expected a column 'non_embedding' for n='non_embedding'; the table has none. Add "
                "it, or use n='total'."
            )
        excluded = tuple(replace(e, params=None) for e in table.excluded)
        table = replace(table, params=table.non_embedding, excluded=excluded, censored=())
    if n == "active" or by_experts:
        table = by_active(table)
    log = loss_space == "log"

    @one_blas_thread
    def problem(table: RunTable, weights: Any) -> FitProblem:
        if form is not None:
            table = with_covariates(check_experts(table) if by_experts else table, form)
        fewest = len((form or Hoffmann).parameters()) - len(known.fixed)
        table, base, findings, rule = sound_runs(table, weights, log, fewest, hparams, n)
        flops = flops_of(table, flops_per_unit)
        front = None if curves is None else envelope(Curves.read(curves), flops)
        points = points_of(table, log)
        made = FitProblem(form, table, flops, points, delta, base, known, front, findings, rule)
        return _where_repeats_help(made) if form is Muennighoff else made

    if group is None and share is not None:
        raise InputError("share=: expected group= beside it, the groups that share constants.")
    if group is not None:
        if law == "search":
            raise InputError("expected a law by its name with group=: search it in a group alone.")
        if curves is not None:
            raise InputError("expected no curves= with group=: fit a group alone with its curves.")
        labels = groups.group_labels(table, group)
        given = None if isinstance(weights, str) else run_weights(weights, table, log)
        problems = {}
        for g in filter(None, np.unique(labels)):
            own = weights if given is None else given[labels == g]
            # Of a run without a loss it is not known to which group it belongs.
            try:
                problems[str(g)] = problem(replace(table.select(labels == g), censored=()), own)
            except FlopsFitError as error:
                raise type(error)(f"group {str(g)!r}: {error}") from error
        return _grouped(problems, window, share)
    alone = problem(table, weights)
    found = search_forms(alone, window) if law == "search" else None
    if found is not None:
        alone = replace(alone, law=(form := LAWS.get(found.chosen, form)))
        alone = _where_repeats_help(alone) if form is Muennighoff else alone
    fitted, report = alone.windowed(window)
    many = epochs_of(alone.table) > FEW_EPOCHS
    beyond = int(np.sum((fitted.chosen.weights > 0) & many))
    # The misfit of another form looks like worn-out repeats where few runs show any.
    enough = beyond >= max(_FEWEST_REPEATING, _REPEATING_SHARE * len(alone.table))
    may_repeat = form is None and enough and not (known.fixed or known.prior)
    repeating = _if_repeats_count(beyond, alone) if may_repeat else None
    return replace(repeating or _assembled(alone, fitted, report), search=found, _question=question)


@one_blas_thread
def _grouped(
    problems: Mapping[str, FitProblem], window: WindowRule, share: Sequence[str] | None
) -> GroupFit:
    """Fits of one form with shared constants, each group in the window of its own optimum."""
    own = [p.windowed(window) for p in problems.values()]
    forms = {type(fitted.chosen.law) for fitted, _ in own}
    form = forms.pop() if len(forms) == 1 else Kappa
    of_form = [replace(p, law=form) for p in problems.values()]
    own = [
        pair if type(pair[0].chosen.law) is form else p.windowed(window)
        for p, pair in zip(of_form, own, strict=True)
    ]
    known = of_form[0].known
    names = groups.shared_names(share, form, known)
    sharing = groups.share_constants([fitted.chosen for fitted, _ in own], names)
    finding, belief = sharing.diagnostic(f"{len(own)} groups"), known.belief()
    pairs = zip(problems.values(), own, strict=True)
    evidences = [p.evidence(fitted.chosen, report) for p, (fitted, report) in pairs]
    held = Known({**known.fixed, **sharing.values}, known.prior)
    fits = {}
    words = groups.beliefs(evidences, names)
    for g, p, evidence, said in zip(problems, of_form, evidences, words, strict=True):
        shared = replace(p, known=held, findings=(*p.findings, finding))
        fitted, report = shared.windowed(window)
        both = said + belief if said else belief
        evidence = replace(evidence, solution=fitted.chosen, known=both)
        fits[g] = _assembled(shared, fitted, report, evidence)
    return GroupFit(fits, sharing.values, sharing.p_value, (finding,))


@one_blas_thread
def quick_fit(runs: RunTable, flops: FlopsFunction, rule: HParamRule | None = None) -> Evidence:
    """What :func:`fit_runs` solves, without its checks, findings and refits: far faster.

    A ``rule`` has freed the losses of their rates and batches.
    """
    base = np.ones(len(runs)) if rule is None else rule.weights(runs)
    points = points_of(runs, log=True)
    problem = FitProblem(None, runs, flops, points, "mad", base, rule=rule)
    fitted, report = problem.windowed("auto")
    return problem.evidence(fitted.chosen, report)


def _where_repeats_help(problem: FitProblem) -> FitProblem:
    """The problem of the law of repeated data, with the runs that it can express."""
    helped, keep, hurt = repeated.where_repetition_helps(problem.table)
    check_runs(helped, len(Muennighoff.parameters()))
    points, base = points_of(helped, problem.points.log), problem.base[keep]
    findings = (*problem.findings, *hurt)
    return replace(
        problem, law=Muennighoff, findings=findings, table=helped, points=points, base=base
    )


def _if_repeats_count(beyond: int, problem: FitProblem) -> Fit | None:
    """The law of repeated data where ``beyond`` runs of many epochs determine its R*_D."""
    if len(with_covariates(problem.table, Muennighoff)) < len(problem.table):
        return None
    try:
        problem = _where_repeats_help(problem)
        fitted, report = problem.windowed("auto")
    except FitError:
        return None
    if not repeated.determines_repeats(fitted.chosen):
        return None
    reason = f"{beyond} runs of more than {FEW_EPOCHS:g} epochs carry weight, and determine R*_D"
    return _assembled(problem, replace(fitted, choice=Choice(False, reason)), report)


@one_blas_thread
def _assembled(
    problem: FitProblem, fitted: Fitted, report: WindowReport, evidence: Evidence | None = None
) -> Fit:
    """Everything about the fit in one value."""
    chosen, unit, table, flops = fitted.chosen, problem.points.unit, problem.table, problem.flops
    # Parabolas in N may join runs of one compute where none repeats its data much.
    fresh = table.select(epochs_of(table) <= FEW_EPOCHS) if chosen.law.covariates else table
    shape = isoflop(as_asked(fresh, chosen.law), report.factor)
    moved = sensitivity(chosen, table, flops)
    residuals = checks.residual_map(chosen, table, flops)
    evidence = evidence or problem.evidence(chosen, report)
    headline = choose_headline(chosen, shape, problem.envelope)
    kept = chosen.weights > 0
    outside = f"outside ×{report.factor:g} of the fitted optimum" if report.used else ""
    used = table.select(kept, outside)
    return Fit(
        **vars(Alternative.of(chosen)),
        loss_space="log" if problem.points.log else "linear",
        diagnostics=(
            *problem.findings,
            *groups.split_finding(chosen, table),
            *shared_error(chosen, table),
            *repeated.repeat_findings(chosen),
            *expert_findings(chosen, table),
            *checks.diagnose(chosen, table, shape, flops),
            *fitted.diagnostics(),
            *report.diagnostics(),
            *sensitivity_diagnostics(moved),
            *checks.residual_diagnostics(residuals, chosen, table),
            *(checks.width_ahead(evidence) if headline.lines is None else ()),
            headline.diagnostic(),
            *(problem.envelope.diagnostics() if problem.envelope else ()),
        ),
        runs=used,
        weights=chosen.weights[kept],
        residuals=chosen.residuals[kept] * unit,
        excluded=used.excluded,
        outliers=checks.find_outliers(chosen, table),
        isoflop=shape,
        envelope=problem.envelope,
        alternatives=tuple(Alternative.of(s) for s in fitted.others),
        flops=flops,
        starts=chosen.starts,
        starts_agree=chosen.agree,
        window=report,
        choice=fitted.choice,
        sensitivity=moved,
        residual_map=residuals,
        _headline=headline,
        _evidence=evidence,
        hparams=problem.rule,
    )


def known_law(law: str | type[Law]) -> type[Law] | None:
    """The class of a law given by name or class; ``None`` for ``"auto"``."""
    if isinstance(law, type) and issubclass(law, Law):
        return law
    if not isinstance(law, str):
        raise InputTypeError(f"expected law as a name or a Law class; got {type(law).__name__}.")
    law = "hoffmann" if law == "chinchilla" else law  # as it is known by
    check_choice("law", law, ("auto", "search", *LAWS))
    return LAWS.get(law)


def check_options(delta: Any, loss_space: Any, window: Any, n: Any) -> None:
    """Refuse options that are not valid."""
    if delta != "mad" and not (is_number(delta, infinite=True) and delta > 0):
        raise InputError(
            f"expected delta='mad' or a positive number (inf: least squares); got {delta!r}."
        )
    check_choice("loss_space", loss_space, ("log", "linear"))
    if window not in (None, "auto") and not (is_number(window, infinite=True) and window > 1):
        raise InputError(f"expected window='auto', None or a factor above 1; got {window!r}.")
    check_choice("n", n, ("total", "non_embedding", "active"))
