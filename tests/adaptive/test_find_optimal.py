"""``find_optimal(design=Adaptive(...))``: plans exact runs, resumes, refuses what it cannot do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import flops_fit
from flops_fit import Adaptive, TrainingConfig
from flops_fit.errors import InputError
from flops_fit.execute import Mock
from tests.conftest import MLP, Blobs, cross_entropy

TARGET = 1e19


def adaptive(output_dir: Path, **changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "model_cls": MLP,
        "model_size_param": "width",
        "mode": "mock",
        "output_dir": output_dir,
        "progress": False,
    }
    settings: dict[str, Any] = {"target_compute": TARGET, "half_width": 0.2, "max_flops": 1e18}
    settings |= {name: changes.pop(name) for name in settings if name in changes}
    if "design" not in changes:
        changes["design"] = Adaptive(**settings)
    return flops_fit.find_optimal(**{**arguments, **changes})


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return adaptive(tmp_path_factory.mktemp("found"))


def test_a_mock_sweep_answers_within_its_budget_and_explains_every_step(found):
    assert found.adaptive.reached
    assert sum(run.flops for run in found.runs) == pytest.approx(found.adaptive.spent)
    assert found.adaptive.spent < 0.4e18
    low, high = found.predict(TARGET).intervals["optimal_params"]
    assert (high / low) ** 0.5 - 1 <= 0.2
    assert f"{TARGET:.3g} FLOPs" in found.summary().splitlines()[1]  # after that it is simulated
    assert found.steps[0].startswith("pilot: ")
    assert sum(line.startswith("next: ") for line in found.steps) >= 1
    assert len({e.id for e in found.plan.experiments}) == len(found.plan.experiments)
    for e in found.plan.experiments:
        assert e.flops == pytest.approx(e.budget, rel=0.01)


def test_a_sweep_that_was_killed_goes_on_to_the_same_answer(found, tmp_path, monkeypatch):
    answer, calls = Mock.__call__, []

    def dying(task: Mock, experiment: Any, report: Any = None) -> Any:
        calls.append(experiment.id)
        if len(calls) == 15:
            raise KeyboardInterrupt
        return answer(task, experiment, report)

    monkeypatch.setattr(Mock, "__call__", dying)
    with pytest.raises(KeyboardInterrupt):
        adaptive(tmp_path)
    before = set(calls[:14])
    resumed = adaptive(tmp_path)
    assert [r.experiment.id for r in resumed.runs] == [r.experiment.id for r in found.runs]
    assert resumed.steps == found.steps
    assert not before & set(calls[15:])


def test_runs_that_a_later_batch_asks_for_are_not_called_others(tmp_path, capsys):
    """A resumed sweep finds them before it asks; only at its end is it known which it never wanted."""
    asked = {"max_flops": 1e17, "half_width": 0.5, "progress": True}
    whole = adaptive(tmp_path, **asked)
    assert len(whole.steps) > 2
    adaptive(tmp_path, **asked)
    assert "not fitted" not in capsys.readouterr().err
    (tmp_path / "runs" / "0123456789abcdef").mkdir()
    adaptive(tmp_path, **asked)
    told = capsys.readouterr().err
    assert told.count("not fitted") == 1
    assert "1 earlier runs of this folder are not part of this sweep" in told


def test_training_goes_through_the_same_steps(tmp_path):
    """Real runs of a tiny model; how sure they make the answer may be anything."""
    found = adaptive(
        tmp_path,
        mode="local",
        dataset=Blobs(),
        loss_fn=cross_entropy,
        compute_budgets=[5e5, 1.5e6, 5e6],
        max_flops=4e7,
        target_compute=2.5e8,
        half_width=1.0,
    )
    assert found.adaptive.spent <= 4e7
    assert {r.state for r in found.runs} <= {"completed", "diverged"}
    assert found.steps[1].startswith(("next: ", "the optimum lies "))
    assert len(list((tmp_path / "runs").iterdir())) == len(found.runs)


def test_sizes_may_be_named_and_no_other_is_used(tmp_path):
    sizes = [2**i for i in range(8, 24, 2)]
    found = adaptive(tmp_path, sizes=sizes, half_width=0.5)
    assert {e.size for e in found.plan.experiments} <= set(sizes)


def test_the_plan_alone_is_the_pilot(tmp_path):
    plan = adaptive(tmp_path, train=False)
    assert len(plan.budgets) == 3
    assert plan.total_flops < 0.02e18
    given = adaptive(tmp_path, train=False, compute_budgets=plan.budgets)
    assert [e.id for e in given.experiments] == [e.id for e in plan.experiments]


def test_the_name_answers_at_ten_times_the_largest_budget_for_the_cost_of_the_grid(tmp_path):
    budgets = [1e16, 3e16, 1e17]
    named = {"design": "adaptive", "compute_budgets": budgets}
    result = adaptive(tmp_path / "named", **named)
    assert result.adaptive.spent <= 7 * sum(budgets)
    written = Adaptive(target_compute=1e18, max_flops=7 * sum(budgets))
    same = adaptive(tmp_path / "written", design=written)
    assert result.steps == same.steps
    assert [r.experiment.id for r in result.runs] == [r.experiment.id for r in same.runs]
    pilot = adaptive(tmp_path, train=False, **named)
    assert {e.id for e in pilot.experiments} == {
        e.id for e in result.plan.experiments[: len(pilot)]
    }
    assert pilot.budgets != tuple(budgets)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"design": "adaptive"}, r"Give design=Adaptive\(target_compute=1e21, max_flops=1e19\)"),
        ({"design": "adaptive", "train": False}, r"Give design=Adaptive\(target_compute"),
        ({"design": "adaptive", "compute_budgets": [1e16, -1]}, "positive finite numbers of FLOPs"),
        ({"half_width": -1}, "half_width: expected a positive number; got -1"),
        (
            {"training": TrainingConfig(branch=True)},
            "branch: an adaptive design plans runs one by one",
        ),
        ({"sizes": {1e15: [2]}}, "sizes: an adaptive design chooses sizes for each budget"),
    ],
)
def test_what_an_adaptive_design_cannot_do_is_said_before_anything_runs(tmp_path, changes, said):
    with pytest.raises(InputError, match=said):
        adaptive(tmp_path, **changes)
    assert not list(tmp_path.iterdir())
