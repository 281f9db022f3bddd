"""A kind planned, trained for seconds and held against what is known of it."""

from __future__ import annotations

import contextlib
import re
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from benchmarks.models.kinds import STEPS, Kind
from flops_fit import SweepPlan, plan_sweep, run_sweep
from flops_fit.errors import FlopsFitError
from flops_fit.flops import trace_flops
from flops_fit.records import Experiment

WITHIN = 0.01
SAMPLED = 0.03  # where samples differ, those of a run are not those of the whole data set
_JUDGED = {
    "units_of_step", "units_of_batches", "whole_batch_loss", "loss_no_mean", "negative_loss",
    "lengths", "batch_norm", "repeated_data", "shifted_labels", "ignored_targets",
    "untrained_loss",
}  # fmt: skip
_ALARMS = "experts|no formula|no known operation"


@dataclass
class Verdict:
    """What was measured of a kind, and what of it is wrong.

    The ratios are those farthest from one: units trained to planned, FLOPs counted on the batches of a
    run to those on record, FLOPs and units of a sample to those by hand.
    """

    kind: Kind
    plan_seconds: float = np.nan
    train_seconds: float = np.nan
    D: float = np.nan
    C: float = np.nan
    flops: float = np.nan
    units: float = np.nan
    states: list[str] = field(default_factory=list)
    told: frozenset[str] = frozenset()
    refusal: str = ""
    wrong: list[str] = field(default_factory=list)


def judge(kind: Kind) -> Verdict:
    """Plan, train and compare."""
    verdict = Verdict(kind)
    torch.manual_seed(0)
    sweep = kind.sweep()
    started = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plan = _planned(kind, sweep)
            verdict.plan_seconds = time.perf_counter() - started
            _train(kind, plan, verdict)
    except FlopsFitError as error:
        verdict.plan_seconds = time.perf_counter() - started
        verdict.refusal = str(error)
    except Exception as error:  # a kind may raise anything: that is what is looked for
        verdict.refusal = f"a traceback: {type(error).__name__}: {error}"
    verdict.wrong += faults(verdict)
    return verdict


def _planned(kind: Kind, sweep: dict[str, Any]) -> SweepPlan:
    sizes = {kind.flops(size) * kind.batch * STEPS: [size] for size in kind.sizes}
    usual = {"model_size_param": "width", "batch_size": kind.batch, "hparams": {"lr": 3e-3}}
    return plan_sweep(compute_budgets=list(sizes), sizes=sizes, **{**usual, **sweep})


def _train(kind: Kind, plan: SweepPlan, verdict: Verdict) -> None:
    verdict.told = frozenset(d.code for d in plan.diagnostics) & _JUDGED
    notes = [d.message for d in plan.diagnostics if d.code == "assumption"]
    expected = [m for m in notes if kind.says and kind.says in m]
    verdict.wrong += [m for m in notes if re.search(_ALARMS, m) and m not in expected]
    if kind.says and not expected:
        verdict.wrong.append(f"did not say {kind.says!r}")
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        runs = run_sweep(plan, output_dir=folder, progress=False)
    verdict.train_seconds = time.perf_counter() - started
    verdict.states = [run.state for run in runs]
    verdict.wrong += [f"{run.state}: {run.reason}" for run in runs if run.state != "completed"]
    rows = [
        (
            run.tokens / run.experiment.tokens,
            _traced(plan, run.experiment) / run.experiment.flops,
            run.experiment.flops_per_sample / kind.flops(run.experiment.size),
            run.experiment.units_per_sample / kind.units,
        )
        for run in runs
    ]
    worst = [max(ratios, key=lambda ratio: abs(ratio - 1)) for ratios in zip(*rows, strict=True)]
    verdict.D, verdict.C, verdict.flops, verdict.units = worst


def _traced(plan: SweepPlan, experiment: Experiment) -> float:
    """FLOPs of a run, counted with the values of the batches that it was trained on."""
    assert plan.planner is not None
    trainer: Any = plan.planner.task
    torch.manual_seed(0)
    model = trainer.model.build(experiment.size).train()
    total = 0.0
    batches = trainer.data.batches(experiment.batch_size, experiment.steps, experiment.seed)
    with contextlib.closing(batches), torch.backends.mkldnn.flags(enabled=False):
        for batch in filter(trainer.objective.has_units, batches):
            total += trace_flops(lambda b=batch: trainer.objective(model, b)[0]).total  # type: ignore[misc]
    return total


def faults(verdict: Verdict) -> Iterator[str]:
    """In which words what was measured differs from what is known of the kind."""
    kind = verdict.kind
    if verdict.refusal or kind.refused:
        if not kind.refused or not re.search(kind.refused, verdict.refusal, re.DOTALL):
            expected = f"{kind.refused!r}" if kind.refused else "a plan"
            yield f"expected {expected}; got {verdict.refusal or 'a plan'}"
        return
    by_hand = SAMPLED if "lengths" in verdict.told else WITHIN
    for what, ratio, within in (
        ("units trained are {} of those planned", verdict.D, WITHIN),
        ("FLOPs of the run are {} of those planned", verdict.C, max(kind.within, WITHIN)),
        ("FLOPs planned are {} of those by hand", verdict.flops, max(kind.within, by_hand)),
        ("units planned are {} of those by hand", verdict.units, max(kind.within, by_hand)),
    ):
        if not abs(ratio - 1) <= within:
            yield what.format(f"{ratio:.4f}")
    if verdict.told != kind.told:
        yield f"expected the findings {sorted(kind.told)}; got {sorted(verdict.told)}"
