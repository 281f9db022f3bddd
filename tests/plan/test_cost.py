"""What a plan costs: FLOPs once, times packed as a sweep packs them, money where a price is given."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flops_fit import TrainingConfig, plan_sweep
from flops_fit.errors import InputError, InputTypeError
from flops_fit.plan import CostEstimate, Reading, Speed, StepTimes, SweepPlan
from flops_fit.plan.cost import DEVICES, DesignCost, DesignCosts, find_peak, makespan
from tests.conftest import MLP, Blobs, cross_entropy, make_experiment

BUDGETS = [1e8, 2e8, 4e8]
WSD = {"schedule": "wsd", "batch_units": 16, "warmup_units": 200}


@pytest.fixture(scope="module")
def plan() -> SweepPlan:
    return plan_sweep(
        MLP, "width", dataset=Blobs(400), loss_fn=cross_entropy, compute_budgets=BUDGETS
    )


BRANCH = TrainingConfig(branch=True)


@pytest.fixture(scope="module")
def branched() -> SweepPlan:
    return plan_sweep(
        MLP,
        "width",
        compute_budgets=BUDGETS,
        design="rectangular",
        training=TrainingConfig(branch=True),
        hparams=WSD,
    )


def test_a_run_takes_its_start_its_steps_and_its_evaluation() -> None:
    """50 steps of 8 samples of 704 FLOPs; 640 held-out samples, in batches of 20, a third of each."""
    times = StepTimes(160.0, fixed=0.01, flops_per_second=7040.0, start=2.0)
    speed = Speed("cpu", (times,), 640.0, Reading(0.001, 0.0))
    steps = 50 * (0.01 + 8 * 0.001 + 8 * 704 / 7040)
    evaluation = 32 * 0.01 / 3 + 640 * 0.001 + 640 * 704 / 3 / 7040
    assert speed.seconds(make_experiment()) == pytest.approx(2.0 + steps + evaluation)
    half = speed.seconds(make_experiment(), 0.5 * make_experiment().flops)
    assert half == pytest.approx(2.0 + steps / 2 + evaluation)
    assert speed.step_seconds(make_experiment()) == pytest.approx(0.01 + 0.8)


def test_runs_side_by_side_share_the_threads() -> None:
    many = StepTimes(160.0, 0.01, 4e4)
    one = StepTimes(160.0, 0.01, 1e4)
    speed = Speed("cpu", (many,), alone=(one,), threads=4)
    experiment = make_experiment()
    train = [speed.seconds(experiment, parallel=p) - 0.5 for p in (1, 2, 4, 8)]
    flops = experiment.flops
    assert train == pytest.approx([flops / 4e4, flops / 2e4, flops / 1e4, flops / 1e4])


@given(st.lists(st.floats(0.1, 10.0), min_size=1, max_size=12), st.integers(1, 5))
def test_the_makespan_lies_within_grahams_bound(times: list[float], parallel: int) -> None:
    """Runs alone: at least the longest and the mean load, at most mean load and longest together."""
    experiments = [
        make_experiment(seed=i, flops_per_unit=t, budget=t * 400) for i, t in enumerate(times)
    ]
    seconds = {e.id: e.flops for e in experiments}
    result = makespan(experiments, seconds, parallel)
    load, longest = sum(seconds.values()) / parallel, max(seconds.values())
    assert result >= max(load, longest) * (1 - 1e-9)
    assert result <= (load + (1 - 1 / parallel) * longest) * (1 + 1e-9)


def test_the_most_expensive_runs_start_first() -> None:
    """3, 3, 2, 2, 2 on two places: 3+2+2 beside 3+2, where runs in this order are started."""
    experiments = [
        make_experiment(seed=i, flops_per_unit=float(t)) for i, t in enumerate([2, 2, 3, 2, 3])
    ]
    seconds = {e.id: e.flops_per_unit for e in experiments}
    assert makespan(experiments, seconds, 2) == 7.0
    assert makespan(experiments, seconds, 1) == 12.0
    assert makespan([], {}, 3) == 0.0


def test_branches_of_a_trunk_run_one_after_another(branched: SweepPlan) -> None:
    seconds = {e.id: 1.0 for e in branched.experiments}
    assert makespan(branched.experiments, seconds, 7) == pytest.approx(3.0)
    assert makespan(branched.experiments, seconds, 100) == pytest.approx(3.0)


def test_what_branches_share_is_paid_once(branched: SweepPlan) -> None:
    cost = branched.estimate(device="H100")
    assert cost.flops == pytest.approx(branched.total_flops)
    assert cost.flops < sum(e.flops for e in branched.experiments)
    assert cost.seconds == pytest.approx(branched.total_flops / (0.3 * 989.4e12))


def test_money_only_where_a_price_is_given(plan: SweepPlan) -> None:
    free = plan.estimate(device="A100")
    assert free.dollars is None
    assert all(run.dollars is None for run in free.runs)
    assert "$" not in str(free)
    paid = plan.estimate(device="A100", dollars_per_hour=3.6e9, parallel=2)
    assert paid.dollars == pytest.approx(paid.wall_seconds * 1e6)
    assert sum(run.dollars for run in paid.runs) == pytest.approx(paid.dollars)
    assert f"{paid.runs[0].label}" in str(paid)
    assert "$" in str(paid)


def test_the_assumed_utilisation_is_stated_and_can_be_given(plan: SweepPlan) -> None:
    assumed, given_ = plan.estimate(device="H100"), plan.estimate(device="H100", mfu=0.6)
    assert "an assumed utilisation (MFU) of 30 % of H100's 989.4 TFLOP/s in bf16" in str(assumed)
    assert "a given utilisation (MFU) of 60 %" in str(given_)
    assert assumed.seconds == pytest.approx(2 * given_.seconds)
    assert "in fp32" in plan.estimate(device="V100").basis


def test_every_device_on_the_list_has_a_peak() -> None:
    for name in DEVICES:
        peak = find_peak(name)
        assert peak is not None, name
        assert peak.bf16 or peak.fp32
        assert find_peak(f"NVIDIA {name}".upper()) == peak


def test_measured_times_are_those_of_the_table(plan: SweepPlan) -> None:
    cost = plan.estimate()
    assert cost.seconds == pytest.approx(plan.seconds())
    assert cost.wall_seconds == pytest.approx(plan.seconds())
    assert plan.speed is not None
    two = plan.estimate(parallel=2)
    assert two.wall_seconds is not None
    assert two.wall_seconds >= two.seconds / 2
    assert two.to_dict()["wall_seconds"] == two.wall_seconds


def test_without_a_measurement_there_are_flops_and_no_times(branched: SweepPlan) -> None:
    cost = branched.estimate(dollars_per_hour=2.0)
    assert cost.seconds is cost.wall_seconds is cost.dollars is None
    assert cost.flops == pytest.approx(branched.total_flops)
    assert "No times: nothing was measured" in str(cost)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"device": "H1000"}, "one of .*'H100'"),
        ({"device": 3}, "device: expected"),
        ({"mfu": 0.4}, "mfu: expected with a device"),
        ({"mfu": 1.4, "device": "H100"}, "mfu: expected a share"),
        ({"parallel": 0}, "parallel: expected"),
        ({"parallel": True}, "parallel: expected"),
        ({"dollars_per_hour": -1.0}, "dollars_per_hour: expected"),
    ],
)
def test_what_cannot_be_priced_is_reported(
    plan: SweepPlan, change: dict[str, Any], words: str
) -> None:
    with pytest.raises((InputError, InputTypeError), match=words):
        plan.estimate(**change)


def test_each_design_is_priced_as_it_would_be_planned(plan: SweepPlan) -> None:
    result = plan.compare_designs(device="H100", dollars_per_hour=2.5)
    assert [row.design for row in result.designs] == [
        "this plan (grid)",
        "grid",
        "tapered",
        "rectangular",
        "rectangular + branch",
    ]
    own = result["this plan (grid)"]
    assert own.experiments == result["grid"].experiments == plan.experiments
    for design in ("tapered", "rectangular"):
        planned = plan_sweep(
            MLP,
            "width",
            dataset=Blobs(400),
            loss_fn=cross_entropy,
            compute_budgets=BUDGETS,
            design=design,  # type: ignore[arg-type]
        )
        assert result[design].experiments == planned.experiments
    flops = {row.design: row.cost.flops for row in result.designs if row.cost}
    assert flops["rectangular + branch"] < 0.75 * flops["rectangular"]
    assert flops["tapered"] < 0.85 * flops["grid"]
    assert "rectangular + branch: " in str(result)
    assert "$" in str(result)


def test_designs_need_a_plan_that_was_made_here(plan: SweepPlan) -> None:
    with pytest.raises(InputError, match="was read from a file"):
        SweepPlan.from_json(plan.to_json()).compare_designs()
    with pytest.raises(InputError, match="expected one of"):
        plan.compare_designs()["spiral"]


def test_an_estimate_of_nothing_is_nothing(plan: SweepPlan) -> None:
    empty = replace(plan, experiments=()).estimate(parallel=2, dollars_per_hour=1.0)
    assert isinstance(empty, CostEstimate)
    assert empty.flops == empty.seconds == empty.wall_seconds == empty.dollars == 0.0


def test_shared_threads_are_named_with_the_times_that_rest_on_them(plan: SweepPlan) -> None:
    many, one = StepTimes(160.0, 0.01, 4e4), StepTimes(160.0, 0.01, 1e4)
    timed = replace(plan, speed=Speed("cpu", (many,), alone=(one,), threads=4))
    assert timed.estimate(parallel=2).basis.endswith("on 2 of 4 threads each.")
    assert timed.estimate(parallel=8).basis.endswith("on 1 of 4 threads each.")
    assert "threads" not in timed.estimate().basis


def test_a_design_that_cannot_be_priced_has_dashes_and_its_reason(plan: SweepPlan) -> None:
    own = plan.compare_designs(device="H100").designs[0]
    text = str(DesignCosts((own, DesignCost("tapered", (), None, "expected larger budgets"))))
    (row,) = [line for line in text.splitlines() if line.lstrip(" │").startswith("tapered  ")]
    assert row.count("–") == 4
    assert "tapered: expected larger budgets" in text


def test_a_model_without_a_size_argument_is_compared_with_no_other_design() -> None:
    named = [{"width": 8}, {"width": 12}]
    made = plan_sweep(
        MLP, dataset=Blobs(400), loss_fn=cross_entropy, compute_budgets=[1e8], sizes=named
    )
    with pytest.raises(InputError, match="expected a plan with model_size_param"):
        made.compare_designs()


def test_sizes_that_another_design_would_lose_are_counted() -> None:
    """Even widths from 2 on: at small budgets a wide design asks for sizes that are none of them."""
    made = plan_sweep(
        MLP, "width", dataset=Blobs(400), loss_fn=cross_entropy, compute_budgets=[1e6, 2e6, 4e6]
    )
    (notes,) = [r.notes for r in made.compare_designs("H100").designs if r.design == "tapered"]
    count = 12 + 6 + 2 - len(made.compare_designs("H100")["tapered"].experiments)
    assert count > 0
    assert f"{count} sizes left out" in notes
