"""Runs that are the same until their cool-downs: what they share, and what that saves.

Under warmup–stable–decay the rate is constant between warmup and cool-down, so runs of one model
that differ in nothing but their length are one run until the first of them cools down. That path
is their trunk and each cool-down a branch of it (Hägele et al. 2024, arXiv:2405.18392).

A trunk is a property of experiments alone: which they are is known before anything runs.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from flops_fit.hparams import HParams
from flops_fit.records import Experiment, canonical_json

# What a run's trunk does not depend on: the end of the schedule, the name of what chose the values,
# and the batch asked for, as the batch taken is there beside it.
_BRANCH_ALONE = frozenset({"cooldown", "final", "recipe", "batch_units"})

# The training loss on record is a mean over a run's last twentieth, which a trunk leaves out.
_SHARED_AT_MOST = 0.95


def trunk_of(experiment: Experiment) -> str:
    """A hash of all that decides a run until its cool-down: 16 hex digits.

    Its budget, units, steps and cool-down are left out, all else that is part of its id is not.

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
    return {name: value for name, value in hparams.to_dict().items() if name not in _BRANCH_ALONE}


def branch_step(experiment: Experiment) -> int:
    """Steps after which a run leaves its trunk, ⌊(1 − cooldown)·steps⌋; 0 where it has none.

    At most 95 % of the steps are on the trunk, however short the cool-down.
    """
    if not experiment.trunk:
        return 0
    share = min(1 - experiment.hparams.cooldown, _SHARED_AT_MOST)
    return math.floor(share * experiment.steps)


def by_trunk(experiments: Iterable[Experiment]) -> list[list[Experiment]]:
    """The experiments of each trunk, shortest first; those without a trunk stand alone."""
    groups: dict[str, list[Experiment]] = defaultdict(list)
    for experiment in experiments:
        groups[experiment.trunk or f"alone {experiment.id}"].append(experiment)
    return [sorted(group, key=lambda e: (branch_step(e), e.steps)) for group in groups.values()]


def shared_steps(experiments: Iterable[Experiment]) -> dict[str, int]:
    """By id, the steps of each run that a shorter one of its trunk makes before it.

    Each goes on from where the one before it left the trunk, so a trunk is walked once.
    """
    shared = {}
    for group in by_trunk(experiments):
        before = 0
        for experiment in group:
            shared[experiment.id] = before
            before = branch_step(experiment)
    return shared


def own_flops(experiments: Iterable[Experiment]) -> dict[str, float]:
    """By id, the FLOPs that each run is left with where shorter ones of its trunk came before it."""
    listed = list(experiments)
    shared = shared_steps(listed)
    return {e.id: e.flops * (1 - shared[e.id] / e.steps) for e in listed}
