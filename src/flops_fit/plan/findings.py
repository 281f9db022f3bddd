"""What the user's model, data and code say about a sweep before it is run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from flops_fit.data.spec import DataSpec
from flops_fit.errors import ModelError
from flops_fit.fingerprint import has_source, reference
from flops_fit.model.spec import ModelSpec
from flops_fit.objective import Objective, by_name
from flops_fit.plan.designs import Sizes
from flops_fit.recipes.published import Recipe
from flops_fit.recipes.resolve import text_rule
from flops_fit.records import Diagnostic, Experiment, by_trunk, own_flops
from flops_fit.text import format_count

FEWEST_STEPS = 500
MOST_EPOCHS = 4.0
_MOST_BUILT = 5e7  # parameters of the largest model that is built only to examine it
_FEW_TRUNKS = 6  # the parameters of the κ-law: no fewer clusters give its constants an interval


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
    if not objective.may_shift(batch):
        return objective, ()
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
    if answer or (answer is None and copied):
        how = "with masked labels, it leaves out the first of each row"
        message = (
            "The model predicts each label from those before it "
            f"({how if answer else 'labels equal input_ids'}): the first label of each row is not "
            "counted. Give count_fn= to count otherwise."
        )
        return replace(objective, shifted=True), (Diagnostic("shifted_labels", "note", message),)
    if not copied:
        return objective, ()
    message = (
        "labels equal input_ids and the model predicts each label at its own position, so it can "
        "copy them."
    )
    action = "shift the labels by one, or give a model that does"
    return objective, (Diagnostic("unshifted_labels", "warning", message, action),)


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
        message = (
            f"{len(budgets)} budgets with {min(sizes)} to {max(sizes)} sizes are few for a law."
        )
        action = "plan at least 4 budgets of at least 5 sizes"
        out.append(Diagnostic("small_grid", "warning", message, action))
    short = [e for e in experiments if e.steps < FEWEST_STEPS]
    if short:
        fewest = min(short, key=lambda e: e.steps)
        message = (
            f"{len(short)} of {len(experiments)} runs have fewer than {FEWEST_STEPS} steps "
            f"({fewest.label}: {fewest.steps})."
        )
        action = "a smaller batch_size or larger budgets"
        out.append(Diagnostic("few_steps", "warning", message, action))
    epochs = [(e.epochs, e.label) for e in experiments if e.epochs is not None and e.epochs > 1]
    if epochs:
        most, label = max(epochs, key=lambda pair: pair[0])
        message = (
            f"{len(epochs)} runs see their data more than once, up to {most:.3g} times ({label})."
        )
        if most > MOST_EPOCHS:
            action = "more data; repeated data is worth less than new data"
            out.append(Diagnostic("repeated_data", "warning", message, action))
        else:
            out.append(Diagnostic("repeated_data", "note", message))
    ratios = {e.params.total: e.flops_per_unit / e.flops_per_unit_6nd for e in experiments}
    if abs(max(ratios.values(), key=lambda r: abs(math.log(r))) - 1) > 0.05:
        ends = [f"{ratios[n]:.3g}×6ND at N = {format_count(n)}" for n in (min(ratios), max(ratios))]
        message = f"Counted FLOPs are {' and '.join(ends)}; the counted ones are used."
        out.append(Diagnostic("flops_vs_6nd", "note", message))
    return out


def branch_findings(experiments: Sequence[Experiment]) -> list[Diagnostic]:
    """What branching saves, and whether there are enough trunks for an interval."""
    groups = [group for group in by_trunk(experiments) if group[0].trunk]
    if not groups:
        return []
    shared = [group for group in groups if len(group) > 1]
    if not shared:
        message = "No size is planned at two budgets, so no run has a trunk to share."
        action = "sizes= as one list for all budgets, or branch=False"
        return [Diagnostic("nothing_shared", "note", message, action)]
    alone = sum(e.flops for e in experiments)
    saved = 1 - sum(own_flops(experiments).values()) / alone
    message = (
        f"{len(shared)} trunks, {sum(map(len, shared))} branches: {100 * saved:.0f} % fewer FLOPs "
        f"than separate runs ({alone / (1 - saved) / alone:.2f}× cheaper)."
    )
    out = [Diagnostic("trunks", "note", message)]
    if len(groups) <= _FEW_TRUNKS:
        message = (
            f"The branches of a trunk share its noise and count as one in an interval: {len(groups)} "
            f"trunks are few for a law of 5 or {_FEW_TRUNKS} parameters."
        )
        out.append(Diagnostic("few_trunks", "warning", message, "more sizes, or repeats=2"))
    return out


def model_findings(spec: ModelSpec, experiments: Sequence[Experiment]) -> list[Diagnostic]:
    """Layers whose output depends on how a batch is split."""
    layers = batch_norms(spec, min(experiments, key=lambda e: e.params.total).size)
    if not layers:
        return []
    message = (
        f"The model has {len(layers)} layers of {', '.join(sorted(set(layers)))}, whose statistics are of "
        "the samples that pass together: the loss then depends on the batch size, and no batch is split "
        "into microbatches or between ranks."
    )
    action = "GroupNorm or LayerNorm; or one batch_size for all runs"
    return [Diagnostic("batch_norm", "warning", message, action)]


def batch_norms(spec: ModelSpec, size: Any) -> list[str]:
    """The kind of each layer that sums over the samples that pass together."""
    import torch

    model: Any = None if size is None else spec.build_meta(size)
    modules = model.modules() if hasattr(model, "modules") else ()
    kind = torch.nn.modules.batchnorm._BatchNorm
    return [type(m).__name__ for m in modules if isinstance(m, kind)]


def data_findings(data: DataSpec, held_out: DataSpec, own_held_out: bool) -> list[Diagnostic]:
    """Randomness in samples that makes a run unrepeatable, or a held-out loss noisy."""
    out = []
    if not data.repeatable():
        message = (
            "Samples differ from one reading to the next although the global generators of torch, NumPy "
            "and Python had the same seed: the data set has a generator of its own, and no run can be "
            "repeated."
        )
        action = "draw from torch.rand, numpy.random or random, or seed the generator by the index"
        out.append(Diagnostic("unseeded_data", "warning", message, action))
    if held_out.draws():
        which = "eval_dataset" if own_held_out else "the training set"
        message = (
            f"The held-out samples are random, as {which} draws random numbers: they are drawn once, the "
            "same for every run."
        )
        action = "eval_dataset= without augmentation"
        out.append(Diagnostic("augmented_held_out", "warning", message, action))
    return out


def code_findings(spec: ModelSpec, objective: Objective) -> list[Diagnostic]:
    """Code whose source cannot be read, so that its bytecode is compared."""
    used = (spec.factory, objective.loss_fn, objective.count_fn, objective.step_fn)
    unread = [reference(f) for f in used if f is not None and not has_source(f)]
    if not unread:
        return []
    message = (
        f"The source of {', '.join(unread)} cannot be read, as in a notebook or exec: its changes are "
        "found by its bytecode, which differs between versions of Python."
    )
    action = "define it in a file, so that another version finds the same runs"
    return [Diagnostic("no_source", "note", message, action)]


def recipe_findings(recipe: Recipe, unit: str) -> list[Diagnostic]:
    """A rule for tokens of text that is applied to other units."""
    rule = None if unit in ("tokens", "units") else text_rule(recipe)  # "units": not known yet
    if rule is None:
        return []
    message = (
        f"The rule {rule!r} was fitted on tokens of text, and D counts {unit} here: one of them "
        "may be worth many tokens or few, so its rates and batches may be off by a large factor."
    )
    action = 'try rates and batches at two sizes and give the best; or hparams="default"'
    return [Diagnostic("recipe_units", "warning", message, action)]


def assumption_findings(
    spec: ModelSpec, notes: Sequence[str], dropped: Sequence[str]
) -> list[Diagnostic]:
    """Assumptions, sizes that were left out, and values that the constructor refuses."""
    out = [Diagnostic("assumption", "note", note) for note in notes]
    if dropped:
        message = f"{len(dropped)} sizes were left out: {'; '.join(dropped)}."
        out.append(Diagnostic("left_out", "note", message))
    if spec.refusals:
        message = (
            f"{len(spec.refusals)} values of {spec.size_param} were tried and refused by the "
            f"constructor, for example: {next(iter(spec.refusals.values()))}"
        )
        out.append(Diagnostic("refused", "note", message))
    return out
