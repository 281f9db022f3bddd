"""Plans whose runs of one size share a trunk: what that needs, and what it saves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from flops_fit.errors import InputError
from flops_fit.records import Diagnostic, Experiment, canonical_json
from flops_fit.text import count
from flops_fit.trunks import by_trunk, own_flops, trunk_hparams, trunk_of

__all__ = ["branch_findings", "with_trunks"]

_FEW_TRUNKS = 6  # the parameters of the κ-law: no fewer clusters give its constants an interval


def with_trunks(experiments: Sequence[Experiment]) -> list[Experiment]:
    """The experiments, each with its trunk.

    Raises
    ------
    InputError
        The schedule is not ``"wsd"``, or runs of one size differ in more than their length.
    """
    for experiment in experiments:
        _check_schedule(experiment, experiments)
    groups: dict[str, list[Experiment]] = defaultdict(list)
    for experiment in experiments:
        groups[canonical_json([experiment.size, experiment.repeat])].append(experiment)
    for group in groups.values():
        _check_alike(group, experiments)
    return [replace(e, trunk=trunk_of(e)) for e in experiments]


def branch_findings(experiments: Sequence[Experiment]) -> list[Diagnostic]:
    """What branching saves, and whether the trunks are enough for an interval."""
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
            f"trunks tell little about a law of 5 or {_FEW_TRUNKS} parameters."
        )
        out.append(Diagnostic("few_trunks", "warning", message, "more sizes, or repeats=2"))
    return out


def _check_schedule(experiment: Experiment, experiments: Sequence[Experiment]) -> None:
    schedule = experiment.hparams["schedule"]
    if schedule != "wsd":
        raise InputError(
            "branch: expected the schedule 'wsd', whose rate before its cool-down does not depend on "
            f"the run's length; got {schedule!r} for {experiment.label}. {_advice(experiments)}"
        )
    if experiment.hparams["warmup_units"] is None and experiment.hparams["warmup"] > 0:
        raise InputError(
            "branch: expected a warmup of the same units in runs of any length; got a share of "
            f"{experiment.hparams['warmup']:g} of each run. {_advice(experiments)}"
        )


def _check_alike(group: Sequence[Experiment], experiments: Sequence[Experiment]) -> None:
    """Refuse runs of one size that could not be branches of one run, naming what differs."""
    first = group[0]
    for other in group[1:]:
        pairs = {"batch_size": (first.batch_size, other.batch_size)}
        before, after = trunk_hparams(first.hparams), trunk_hparams(other.hparams)
        pairs |= {name: (before[name], after[name]) for name in before}
        told = [f"{name} ({a!r} and {b!r})" for name, (a, b) in pairs.items() if a != b]
        if told:
            raise InputError(
                f"branch: expected runs of one size to differ in their length alone; {first.label} "
                f"and {other.label} differ in {', '.join(told)}. {_advice(experiments)}"
            )


def _advice(experiments: Sequence[Experiment]) -> str:
    """Values that would do, taken from the shortest run."""
    short = min(experiments, key=lambda e: e.tokens)
    batch = max(1, round(short.batch_size * short.units_per_sample))
    warmup = max(1, round(0.1 * short.tokens))
    values = f'{{"schedule": "wsd", "batch_units": {batch}, "warmup_units": {warmup}}}'
    return (
        f"Give hparams={values}, or a recipe that depends on the size alone; 0.1 of the shortest "
        f"run, of {count(short.tokens)} {short.unit}, are {warmup} of them."
    )
