"""What the user's model, data and code say about a sweep before it is run."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from flops_fit import rng
from flops_fit.batches import batch_length, by_name
from flops_fit.data.leaks import held_out_seen, shared_by_neighbours
from flops_fit.data.spec import DataSpec
from flops_fit.errors import ModelError
from flops_fit.fingerprint import has_source, reference
from flops_fit.lazy import torch
from flops_fit.model.spec import ModelSpec
from flops_fit.objective import Evaluator, Objective
from flops_fit.plan.designs import Sizes
from flops_fit.recipes.published import Recipe
from flops_fit.recipes.resolve import text_rule
from flops_fit.records import Diagnostic, Experiment, Findings, Severity, by_trunk, own_flops
from flops_fit.text import format_count, listed, span

FEWEST_STEPS = 500
MOST_EPOCHS = 4.0
_MOST_BUILT = 5e7  # parameters of the largest model that is built only to examine it
_FEW_TRUNKS = 6  # the parameters of the κ-law: no fewer clusters give its constants an interval
in_words = Findings(Path(__file__).with_name("findings.toml"))


def settle_labels(
    spec: ModelSpec, objective: Objective, batch: Any, sizes: Sizes | None
) -> tuple[Objective, tuple[Diagnostic, ...]]:
    """The objective, which now knows the targets and, by trying the smallest model, whether it shifts."""
    size = None if by_name(batch) is None else smallest_built(spec, sizes)
    if size is not None:
        model = None
        with suppress(Exception):  # planning says so in its own words
            model = spec.build_meta(size)
        objective = objective.with_target(model, batch)
    objective = _settle_units(spec, objective, batch, sizes)
    if not objective.may_shift(batch):
        rows = objective.rows_counted(batch)
        return objective, (in_words("rows_counted", name=rows),) if rows else ()
    answer = None
    if size is not None:
        with suppress(Exception):  # the constructor refuses; planning says so in its own words
            answer = objective.shifts(spec.build(size), batch)
    named = by_name(batch) or {}
    labels: Any = named.get("labels")
    inputs: Any = named.get("input_ids")
    shape = getattr(labels, "shape", None)
    copied = shape is not None and shape == getattr(inputs, "shape", None)
    copied = copied and bool(((labels == inputs) | (labels < 0)).all())
    mask: Any = named.get("attention_mask")
    pads = copied and getattr(mask, "shape", None) == shape and bool((labels[mask == 0] >= 0).any())
    told = (in_words("padded_labels"),) if pads else ()
    if answer or (answer is None and copied):
        masked = "with masked labels, it leaves out the first of each row"
        how = masked if answer else "labels equal input_ids"
        return replace(objective, shifted=True), (in_words("shifted_labels", how=how), *told)
    return objective, (in_words("unshifted_labels"), *told) if copied else ()


def _settle_units(
    spec: ModelSpec, objective: Objective, batch: Any, sizes: Sizes | None
) -> Objective:
    """The objective, which counts samples where planning would count whole numbers that are no classes.

    A step of the user's says so itself; else the model's output has no score for each class.
    """
    steps, samples = objective.step_fn is not None, batch_length(batch)
    in_doubt = steps or (objective.loss_fn is not None and objective.has_classes(batch))
    if not in_doubt or objective.count_fn or float(objective.count(batch)) == samples:
        return objective
    by_sample = False
    with suppress(Exception), rng.kept():  # training reports what it raises
        if (size := smallest_built(spec, sizes)) is not None:
            model = spec.build(size).eval()
            units = Evaluator(model, objective)(batch)[1] if steps else math.nan
            by_sample = units == samples or objective.is_elementwise(model, batch)
    return replace(objective, by_sample=True) if by_sample else objective


def smallest_built(spec: ModelSpec, sizes: Sizes | None) -> Any:
    """A size small enough to be built; ``None`` if there is none."""
    try:
        if sizes is None:
            near = spec.nearest(1.0)
            candidates: list[Any] = [] if near is None else [near[0]]
        else:
            groups = sizes.values() if isinstance(sizes, Mapping) else [sizes]
            candidates = [size for group in groups for size in group]
        counted = [(c.total, size) for size in candidates if (c := spec.count(size)) is not None]
    except (ModelError, TypeError):  # planning says so in its own words
        return None
    small = min(counted, key=lambda pair: pair[0], default=None)
    return None if small is None or small[0] > _MOST_BUILT else small[1]


def run_findings(experiments: Sequence[Experiment]) -> list[Diagnostic]:
    """What to know about the runs of a plan: too few, too short, repeated data, FLOPs unlike 6ND."""
    out = []
    budgets = sorted({e.budget for e in experiments})
    sizes = [len({repr(e.size) for e in experiments if e.budget == b}) for b in budgets]
    if len(budgets) < 4 or min(sizes) < 5:
        counted = span(min(sizes), max(sizes))
        out.append(in_words("small_grid", budgets=len(budgets), sizes=counted))
    short = [e for e in experiments if e.steps < FEWEST_STEPS]
    if short:
        run = min(short, key=lambda e: e.steps)
        counts = {"short": len(short), "runs": len(experiments), "limit": FEWEST_STEPS}
        out.append(in_words("few_steps", run=run, **counts))
    repeating = [e for e in experiments if (e.epochs or 0) > 1]
    if repeating:
        run = max(repeating, key=lambda e: e.epochs or 0)
        many = (run.epochs or 0) > MOST_EPOCHS
        severity: Severity = "warning" if many else "note"
        out.append(in_words("repeated_data", severity, many, runs=len(repeating), run=run))
    ratios = {e.params.total: e.flops_per_unit / e.flops_per_unit_6nd for e in experiments}
    if abs(max(ratios.values(), key=lambda r: abs(math.log(r))) - 1) > 0.05:
        ends = [
            f"{ratios[n]:.3g}×6ND at N = {format_count(n)}"
            for n in sorted({min(ratios), max(ratios)})
        ]
        out.append(in_words("flops_vs_6nd", ratios=" and ".join(ends)))
    return out


def branch_findings(experiments: Sequence[Experiment]) -> list[Diagnostic]:
    """What branching saves, and whether there are enough trunks for an interval."""
    groups = [group for group in by_trunk(experiments) if group[0].trunk]
    if not groups:
        return []
    shared = [group for group in groups if len(group) > 1]
    if not shared:
        return [in_words("nothing_shared")]
    alone = sum(e.flops for e in experiments)
    saved = 1 - sum(own_flops(experiments).values()) / alone
    costs = {"saved": 100 * saved, "cheaper": 1 / (1 - saved)}
    out = [in_words("trunks", trunks=len(shared), branches=sum(map(len, shared)), **costs)]
    if len(groups) <= _FEW_TRUNKS:
        out.append(in_words("few_trunks", trunks=len(groups), limit=_FEW_TRUNKS))
    return out


def model_findings(spec: ModelSpec, experiments: Sequence[Experiment]) -> list[Diagnostic]:
    """Layers whose output depends on how a batch is split."""
    layers = batch_norms(spec, min(experiments, key=lambda e: e.params.total).size)
    kinds = ", ".join(sorted(set(layers)))
    return [in_words("batch_norm", number=len(layers), kinds=kinds)] if layers else []


def batch_norms(spec: ModelSpec, size: Any) -> list[str]:
    """The kind of each layer that sums over the samples that pass together."""
    model: Any = None if size is None else spec.build_meta(size)
    if not hasattr(model, "modules"):
        return []  # known sizes need no torch
    kind = torch.nn.modules.batchnorm._BatchNorm
    normed = [m for m in model.train().modules() if isinstance(m, kind)]
    return [type(m).__name__ for m in normed if m.training or m.running_mean is None]


def data_findings(data: DataSpec, held_out: DataSpec, own_held_out: bool) -> list[Diagnostic]:
    """Held-out samples that are trained on, and randomness that makes runs unrepeatable or losses noisy."""
    out = []
    met, looked_at = held_out_seen(data, held_out) if own_held_out else (0, 0)
    if met:
        out.append(in_words("same_held_out", met=met, looked_at=looked_at))
    share = 0.0 if data.indices is None else shared_by_neighbours(data)
    if share:
        code = "overlap" if own_held_out or data.groups() is not None else "overlap_held_out"
        out.append(in_words(code, share=share, times=1 / (1 - share)))
    if not data.repeatable():
        out.append(in_words("unseeded_data"))
    if data.order == "unknown":
        out.append(in_words("stream_order", count=data.skip))
    elif held_out.draws():
        which = "eval_dataset" if own_held_out else "the training set"
        out.append(in_words("augmented_held_out", which=which))
    return out


def code_findings(spec: ModelSpec, objective: Objective) -> list[Diagnostic]:
    """Code whose source cannot be read, so that its bytecode is compared."""
    used = (spec.factory, objective.loss_fn, objective.count_fn, objective.step_fn)
    unread = [reference(f) for f in used if f is not None and not has_source(f)]
    out = [in_words("no_source", names=", ".join(unread))] if unread else []
    for name in ("loss_fn", "step_fn"):
        weights: Any = getattr(getattr(objective, name), "named_parameters", tuple)()
        if trained := [key for key, p in weights if p.requires_grad]:
            out.append(in_words("untrained_loss", name=name, names=listed(trained, 3, ", ")))
    return out


def recipe_findings(recipe: Recipe, unit: str) -> list[Diagnostic]:
    """A rule for tokens of text that is applied to other units."""
    rule = None if unit in ("tokens", "units") else text_rule(recipe)  # "units": not known yet
    return [] if rule is None else [in_words("recipe_units", rule=rule, unit=unit)]


def assumption_findings(
    spec: ModelSpec, notes: Sequence[str], dropped: Sequence[str]
) -> list[Diagnostic]:
    """Assumptions, sizes that were left out, and values that the constructor refuses."""
    out = [Diagnostic("assumption", "note", note) for note in notes]
    if dropped:
        out.append(in_words("left_out", number=len(dropped), listed="; ".join(dropped)))
    if spec.refusals:
        example, number = next(iter(spec.refusals.values())), len(spec.refusals)
        out.append(in_words("refused", number=number, name=spec.size_param, example=example))
    return out
