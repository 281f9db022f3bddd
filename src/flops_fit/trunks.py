"""Runs that are the same until their cool-downs: what they share and what that saves.

Under warmup–stable–decay the rate is constant between warmup and cool-down, so runs of one model
that differ only in length are one run until the first of them cools down. That part is their trunk
and each cool-down a branch of it (Hägele et al. 2024, arXiv:2405.18392).

Trunks follow from the experiments alone, before anything runs.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from flops_fit.hparams import HParams
from flops_fit.records import Experiment, canonical_json

# A trunk does not depend on these: the end of the schedule, the name of the recipe, and the batch
# before rounding.
_BRANCH_ONLY = frozenset({"cooldown", "final", "recipe", "batch_units"})

# The training loss on record is a mean over a run's last twentieth, which a trunk does not contain.
_MOST_SHARED = 0.95


def trunk_of(experiment: Experiment) -> str:
    """A hash of all that decides a run until its cool-down: 16 hex digits.

    It includes what the id does, except budget, units, steps and cool-down.

    Examples
    --------
    >>> from dataclasses import replace
    >>> from flops_fit.records import ParamCount
    >>> hparams = HParams(lr=0.01, batch_units=8)
    >>> params = ParamCount(160, 160, 160, 160)
    >>> run = Experiment(
    ...     "M", {}, 8, params, 1e6, 400, 50, 8, 1.0, "samples", 1.0, 1.0, hparams, 1, 0, ""
    ... )
    >>> trunk_of(run) == trunk_of(replace(run, budget=2e6, tokens=800, steps=100))
    True
    >>> trunk_of(run) == trunk_of(replace(run, seed=2))
    False
    """
    decides = {
        "model": experiment.model,
        "model_kwargs": experiment.model_kwargs,
        "size": experiment.size,
        "batch_size": experiment.batch_size,
        "hparams": trunk_hparams(experiment.hparams),
        "seed": experiment.seed,
        "repeat": experiment.repeat,
        "fingerprint": experiment.fingerprint,
    }
    return hashlib.sha256(canonical_json(decides).encode()).hexdigest()[:16]


def trunk_hparams(hparams: HParams) -> dict[str, Any]:
    """The hyper-parameters that decide a trunk."""
    return {name: value for name, value in hparams.to_dict().items() if name not in _BRANCH_ONLY}


def branch_step(experiment: Experiment) -> int:
    """Steps after which a run leaves its trunk, ⌊(1 − cooldown)·steps⌋; 0 if it has none.

    At most 95 % of the steps are on the trunk, however short the cool-down.
    """
    if not experiment.trunk:
        return 0
    share = min(1 - experiment.hparams.cooldown, _MOST_SHARED)
    return math.floor(share * experiment.steps)


def by_trunk(experiments: Iterable[Experiment]) -> list[list[Experiment]]:
    """The experiments of each trunk, shortest first; those without a trunk stand alone."""
    groups: dict[str, list[Experiment]] = defaultdict(list)
    for experiment in experiments:
        groups[experiment.trunk or f"alone {experiment.id}"].append(experiment)
    return [sorted(group, key=lambda e: (branch_step(e), e.steps)) for group in groups.values()]


def shared_steps(experiments: Iterable[Experiment]) -> dict[str, int]:
    """By id, the steps of each run that a shorter one of its trunk makes before it.

    Each continues from where the one before it left the trunk, so a trunk is computed once.
    """
    shared = {}
    for group in by_trunk(experiments):
        before = 0
        for experiment in group:
            shared[experiment.id] = before
            before = branch_step(experiment)
    return shared


def own_flops(experiments: Iterable[Experiment]) -> dict[str, float]:
    """By id, the FLOPs of each run after what shorter runs of its trunk have computed."""
    listed = list(experiments)
    shared = shared_steps(listed)
    return {e.id: e.flops * (1 - shared[e.id] / e.steps) for e in listed}
