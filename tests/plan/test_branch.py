"""A branched plan: which runs share a trunk, what that needs and what it saves."""

from __future__ import annotations

import re
from typing import Any

import pytest

from flops_fit import Grid, TrainingConfig, plan_sweep
from flops_fit.errors import InputError
from flops_fit.plan import SweepPlan
from flops_fit.recipes import learning_rate
from flops_fit.records import branch_step, own_flops, shared_steps, trunk_of
from tests.conftest import MLP, Blobs, cross_entropy, make_experiment

HPARAMS = {"schedule": "wsd", "batch_units": 8, "warmup_units": 500.0}


def plan_of(**changes: Any) -> SweepPlan:
    arguments: dict[str, Any] = {
        "model_cls": MLP,
        "model_size_param": "width",
        "dataset": Blobs(),
        "loss_fn": cross_entropy,
        "compute_budgets": [3e6, 1e7, 3e7],
        "sizes": [8, 12, 24],
        "hparams": HPARAMS,
        "training": TrainingConfig(branch=True),
    }
    return plan_sweep(**{**arguments, **changes})


def test_runs_of_one_size_and_repeat_share_seed_batch_and_trunk() -> None:
    """And of another size or repeat they do not."""
    plan = plan_of(design=Grid(repeats=2))
    for name in ("trunk", "seed"):
        values = {(e.size, e.repeat): set() for e in plan.experiments}
        for e in plan.experiments:
            values[e.size, e.repeat].add(getattr(e, name))
        assert all(len(result) == 1 for result in values.values())
        assert len(set.union(*values.values())) == 6
    assert {e.batch_size for e in plan.experiments} == {8}
    assert len({e.id for e in plan.experiments}) == 18


def test_a_trunk_does_not_change_what_a_run_is_called() -> None:
    """So a finished run is found again whether or not it was a branch."""
    assert make_experiment(trunk="abc").id == make_experiment().id


def test_more_budgets_keep_the_runs_and_the_trunks() -> None:
    """A sweep can be made longer."""
    few = {e.id: e.trunk for e in plan_of(compute_budgets=[3e6, 3e7]).experiments}
    more = {e.id: e.trunk for e in plan_of().experiments}
    assert few.items() <= more.items()


def test_the_rate_up_to_the_branch_is_that_of_every_longer_run() -> None:
    """Bit by bit, at every step."""
    plan = plan_of()
    chain = [e for e in plan.experiments if e.size == 8]

    def rates(e: Any) -> list[float]:
        per_step = e.batch_size * e.units_per_sample
        return [
            learning_rate(e.hparams, (k + 0.5) * per_step, e.steps * per_step)
            for k in range(e.steps)
        ]

    longest = rates(chain[-1])
    for e in chain:
        at = branch_step(e)
        assert rates(e)[:at] == longest[:at]
        assert e is chain[-1] or rates(e)[at + 1] < longest[at + 1]


def test_a_trunk_is_planned_once() -> None:
    """FLOPs by hand: the longest run, and of each shorter one its cool-down alone."""
    plan = plan_of(compute_budgets=[3e6, 1e7, 3e7])
    by_hand = 0.0
    for size in (8, 12, 24):
        chain = [e for e in plan.experiments if e.size == size]
        cooldowns = [e.flops * (1 - branch_step(e) / e.steps) for e in chain[:-1]]
        by_hand += chain[-1].flops + sum(cooldowns)
    assert plan.total_flops == pytest.approx(by_hand, rel=1e-12)
    separate = sum(e.flops for e in plan.experiments)
    saved = round(100 * (1 - by_hand / separate))
    message = next(d.message for d in plan.diagnostics if d.code == "trunks")
    assert f"3 trunks, 9 branches: {saved} % fewer FLOPs" in message
    assert plan.seconds() is not None
    assert any(d.code == "few_trunks" for d in plan.diagnostics)


def test_a_plan_without_branches_is_counted_as_ever() -> None:
    """Every run pays for itself."""
    plan = plan_of(training=TrainingConfig())
    assert plan.total_flops == sum(e.flops for e in plan.experiments)
    assert set(shared_steps(plan.experiments).values()) == {0}
    assert own_flops(plan.experiments) == {e.id: e.flops for e in plan.experiments}
    assert {e.trunk for e in plan.experiments} == {""}
    assert len({e.seed for e in plan.experiments}) == 9


def test_sizes_that_differ_by_budget_share_nothing_and_that_is_reported() -> None:
    plan = plan_of(sizes={3e6: [8], 1e7: [12], 3e7: [24]})
    assert any(d.code == "nothing_shared" for d in plan.diagnostics)
    assert plan.total_flops == pytest.approx(sum(e.flops for e in plan.experiments))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hparams": "default"}, "expected the schedule 'wsd'.*got 'cosine'"),
        ({"hparams": {"schedule": "wsd"}}, "got a share of 0.1 of each run"),
        ({"hparams": {"schedule": "wsd", "warmup": 0.0}}, r"differ in batch_size \("),
        (
            {"hparams": lambda p, units, unit: {**HPARAMS, "lr": 1.0 / units}},
            r"C=3e\+06 size=8 and C=1e\+07 size=8 differ in lr \(",
        ),
        (
            {"hparams": lambda p, units, unit: {**HPARAMS, "weight_decay": units * 1e-9}},
            "differ in weight_decay",
        ),
        ({"hparams": {**HPARAMS, "warmup_units": 5e4}}, "expected warmup_units that fit"),
        ({"hparams": {**HPARAMS, "warmup_units": -1}}, "warmup_units of 0 or more"),
    ],
)
def test_what_cannot_be_branched_is_reported_with_what_would_do(
    change: dict[str, Any], words: str
) -> None:
    with pytest.raises((InputError, TypeError), match=words):
        plan_of(**change)


def test_the_advice_of_a_refusal_makes_a_plan() -> None:
    """The values that the message names are taken."""
    with pytest.raises(InputError) as refused:
        plan_of(hparams="default")
    values = eval(re.search(r"hparams=(\{.*?\})", str(refused.value))[1])  # type: ignore[index]
    assert {e.trunk != "" for e in plan_of(hparams=values).experiments} == {True}


def test_cool_downs_may_differ_and_other_values_make_other_trunks() -> None:
    """What only the end of a run depends on does not decide its trunk."""
    plan = plan_of(hparams=lambda p, units, unit: {**HPARAMS, "cooldown": min(0.5, 3000.0 / units)})
    assert len({e.trunk for e in plan.experiments}) == 3
    one = make_experiment()
    assert trunk_of(one) == trunk_of(make_experiment(steps=99, tokens=792, budget=1.0))
    for change in ({"seed": 2}, {"batch_size": 9}, {"fingerprint": "x"}, {"size": 9}):
        assert trunk_of(make_experiment(**change)) != trunk_of(one)
