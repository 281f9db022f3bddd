"""One call does it all, continues where it was interrupted, and refuses bad input before spending."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

import flops_fit
from flops_fit import Mock, TrainingConfig
from flops_fit.errors import (
    BudgetError,
    DataError,
    FitError,
    InputError,
    InputTypeError,
    OutputError,
    PlanError,
    SweepError,
)
from flops_fit.laws import Hoffmann
from tests._scripts import Scripts
from tests.conftest import MLP, Blobs, cross_entropy

BUDGETS = [1e15, 3e15, 1e16, 3e16, 1e17]


class Untouchable(torch.utils.data.Dataset):
    """A data set that must not be read."""

    def __len__(self) -> int:
        raise AssertionError("the data set was read")

    def __getitem__(self, i: int) -> Any:
        raise AssertionError("the data set was read")


def mock(output_dir: Path, **changes: Any) -> flops_fit.Result:
    arguments: dict[str, Any] = {
        "model_cls": MLP,
        "model_size_param": "width",
        "dataset": Untouchable(),
        "loss_fn": cross_entropy,
        "compute_budgets": BUDGETS,
        "mode": "mock",
        "output_dir": output_dir,
        "progress": False,
    }
    result = flops_fit.find_optimal(**{**arguments, **changes})
    assert isinstance(result, flops_fit.Result)
    return result


def test_a_mock_recovers_the_law_it_mocks(tmp_path: Path) -> None:
    law = flops_fit.reference.law("besiroglu2024")
    result = mock(tmp_path)
    truth = law.optimal(1e17, 6.0)
    told = result.predict(1e17)
    assert told.optimal_params == pytest.approx(float(truth.params), rel=0.1)
    assert told.expected_loss == pytest.approx(float(truth.loss), rel=0.01)
    low, high = told.intervals["optimal_params"]
    assert low < truth.params < high
    serious = {d.code for d in result.fit.diagnostics if d.severity in ("warning", "critical")}
    assert serious == {"simulated"}


def test_a_mock_without_noise_recovers_it_exactly(tmp_path: Path) -> None:
    law = Hoffmann(1.7, 400.0, 1100.0, 0.34, 0.34)
    result = mock(tmp_path, mode=Mock(law, noise=0.0))
    assert result.fit.law.name == "hoffmann"
    for name, value in law.params.items():
        assert result.fit.law.params[name] == pytest.approx(value, rel=1e-4)
    assert result.predict(1e19).optimal_params == pytest.approx(
        float(law.optimal(1e19).params), rel=1e-4
    )


def test_predictions_spend_exactly_the_budget(tmp_path: Path) -> None:
    batch = (torch.zeros(2, 16), torch.zeros(2, dtype=torch.int64))
    result = mock(tmp_path, example_batch=batch)
    for compute in (1e15, 2.5e16, 1e19, 1e22):
        told = result.predict(compute)
        spent = float(result.plan.flops(told.optimal_params)) * told.optimal_tokens
        assert spent == pytest.approx(compute, rel=1e-9)
        # Traced, not 6ND: the first layer needs no gradient of its input.
        assert float(result.plan.flops(told.optimal_params)) == pytest.approx(
            4.4 * told.optimal_params, rel=1e-3
        )


def test_the_result_answers_in_every_form(tmp_path: Path) -> None:
    result = mock(tmp_path)
    table = result.chinchilla_table()
    for name in ("Compute Budget", "Optimal N", "Optimal D", "D/N Ratio", "Predicted Loss"):
        assert name in table
    assert table.count("\n| 1e+") + table.count("\n| 3e+") == 5
    assert "3.3e+20" in result.chinchilla_table([3.3e20])
    told = result.predict(1e18)
    for key in (
        "target_compute",
        "optimal_params",
        "optimal_tokens",
        "expected_loss",
        "tokens_per_param",
    ):
        assert told[key] == getattr(told, key) == dict(told)[key]
    assert told["tokens_per_param"] == pytest.approx(
        told["optimal_tokens"] / told["optimal_params"]
    )
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "rates.png").touch()  # of an earlier sweep that was tuned
    figures = result.plot(show=False)
    assert all(isinstance(f, Figure) for f in figures)
    assert {p.name for p in (tmp_path / "plots").iterdir()} == {
        f"{f.get_label()}.{ending}" for f in figures for ending in ("png", "csv")
    }
    assert "<svg" in result.report().read_text()
    assert json.loads((tmp_path / "fit.json").read_text())["law"] == result.fit.law.name
    assert "With 1e+17 FLOPs, train about" in str(result)


def test_two_budgets_answer_and_say_that_they_are_few(tmp_path: Path) -> None:
    result = mock(tmp_path, compute_budgets=[1e12, 1e13])
    assert result.fit.trust != "ok"
    assert any("budgets" in d.message for d in result.diagnostics)


def test_train_false_is_the_plan_and_writes_nothing(tmp_path: Path, sweep: dict[str, Any]) -> None:
    plan = flops_fit.find_optimal(**sweep, train=False, output_dir=tmp_path / "out")
    assert isinstance(plan, flops_fit.SweepPlan)
    assert len(plan.experiments) == 12
    assert not (tmp_path / "out").exists()


SWEEP: dict[str, Any] = {
    "model_cls": MLP,
    "model_size_param": "width",
    "dataset": Blobs(),
    "loss_fn": cross_entropy,
    "compute_budgets": [2.03e5, 4.06e5, 8.12e5],  # whole steps at each size
    "sizes": [4, 6, 8, 12],
    "batch_size": 8,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> flops_fit.Result:
    """A sweep that is trained once."""
    out = tmp_path_factory.mktemp("whole") / "out"
    return flops_fit.find_optimal(**SWEEP, progress=False, output_dir=out)


@pytest.fixture
def trained(whole: flops_fit.Result, tmp_path: Path) -> Path:
    """A folder that holds it, to go on from."""
    return Path(shutil.copytree(whole.output_dir, tmp_path / "trained"))


def test_a_real_sweep_trains_fits_and_answers(whole: flops_fit.Result) -> None:
    result, out = whole, Path(whole.output_dir)
    assert [r.state for r in result.runs] == ["completed"] * 12
    assert all(
        r.flops == r.experiment.flops and r.tokens == r.experiment.tokens for r in result.runs
    )
    assert all(0 < r.loss < 1.5 for r in result.runs)
    assert len(list((out / "runs").iterdir())) == 12
    assert (out / "runs.csv").read_text().count("completed") == 12


def test_both_executors_give_the_same_bits(tmp_path: Path, whole: flops_fit.Result) -> None:
    pool = flops_fit.execute.PoolExecutor(2, 1)
    second = flops_fit.find_optimal(**SWEEP, output_dir=tmp_path, executor=pool, progress=False)
    assert [r.loss for r in whole.runs] == [r.loss for r in second.runs]


def test_changed_budgets_keep_the_runs_that_stay(
    trained: Path, whole: flops_fit.Result, capsys: pytest.CaptureFixture[str]
) -> None:
    first = whole
    changed = {**SWEEP, "compute_budgets": [1.015e5, 4.06e5, 8.12e5]}
    second = flops_fit.find_optimal(**changed, output_dir=trained)
    told = capsys.readouterr().err
    assert "8 of 12 runs are finished already" in told
    assert "4 earlier runs of this folder are not part of this sweep" in told
    kept = {r.experiment.id: r for r in first.runs if r.experiment.budget > 3e5}
    shared = [r for r in second.runs if r.experiment.budget > 2e5]
    assert len(shared) == 8
    assert all(kept[r.experiment.id] == r for r in shared)


def test_changed_data_never_reuses_a_run(whole: flops_fit.Result) -> None:
    other = flops_fit.plan_sweep(**{**SWEEP, "dataset": Blobs(seed=4)})
    assert not {r.experiment.id for r in whole.runs} & {e.id for e in other.experiments}


def test_resume_false_trains_anew(trained: Path, whole: flops_fit.Result) -> None:
    second = flops_fit.find_optimal(**SWEEP, output_dir=trained, resume=False, progress=False)
    assert [r.loss for r in whole.runs] == [r.loss for r in second.runs]
    assert whole.runs != second.runs  # the seconds differ
    assert any(p.name.startswith("runs-set-aside") for p in trained.iterdir())


SCRIPT = """
import sys
sys.path.insert(0, {root!r})
import flops_fit
from tests.api.test_find import SWEEP

if __name__ == "__main__":
    flops_fit.find_optimal(**SWEEP, executor={executor!r}, output_dir={out!r})
"""


@pytest.mark.parametrize("executor", ["inprocess", "pool"])
def test_killed_half_way_the_same_call_continues(
    tmp_path: Path,
    executor: str,
    whole: flops_fit.Result,
    scripts: Scripts,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The driver is really killed; the call that continues is one of another process, this one."""
    root, out, script = Path(__file__).parents[2], tmp_path / "killed", tmp_path / "driver.py"
    script.write_text(SCRIPT.format(root=str(root), out=str(out), executor=executor))
    process = scripts.start(script)
    deadline = time.monotonic() + 60
    while len(finished := list(out.glob("runs/*/run.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process, signal.SIGKILL)
    scripts.wait()
    assert 2 <= len(finished) < 12, "it was to be killed half way"
    before = {p: p.read_bytes() for p in out.glob("runs/*/run.json")}
    continued = flops_fit.find_optimal(**SWEEP, executor=executor, output_dir=out)
    assert "runs are finished already" in capsys.readouterr().err
    assert [r.loss for r in continued.runs] == [r.loss for r in whole.runs]
    assert all(p.read_bytes() == content for p, content in before.items())


class _FailsAtTen(MLP):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.up.out_features == 10 and x.device.type == "cpu" and self.training and len(x) == 8:
            raise RuntimeError("ten is unlucky")
        return super().forward(x)


def test_a_run_that_fails_is_recorded_and_named_and_the_sweep_goes_on(
    tmp_path: Path, sweep: dict[str, Any]
) -> None:
    changes = {"model_cls": _FailsAtTen, "sizes": [4, 6, 8, 10, 12]}
    result = flops_fit.find_optimal(**{**sweep, **changes}, output_dir=tmp_path)
    failed = [r for r in result.runs if r.state == "failed"]
    assert len(failed) == 3
    assert {e.reason for e in result.fit.excluded} >= {"failed: RuntimeError: ten is unlucky"}
    assert len(result.fit.runs) + len(result.fit.excluded) == len(result.runs) == 15


class _HeldOut(Blobs):
    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = super().__getitem__(i)
        return x + 100, y


class _FailsWhenJudged(MLP):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.device.type == "cpu" and x.mean() > 50:
            raise RuntimeError("a hundred")
        return super().forward(x)


def test_two_equal_failures_at_the_start_stop_the_sweep(
    tmp_path: Path, sweep: dict[str, Any]
) -> None:
    """Planning tries the model on data to train on: the fault shows where runs are judged."""
    arguments = {**sweep, "model_cls": _FailsWhenJudged, "eval_dataset": _HeldOut(280)}
    with pytest.raises(SweepError, match=r"first two runs failed.*a hundred"):
        flops_fit.find_optimal(**arguments, output_dir=tmp_path)


def test_too_few_completed_runs_say_what_to_add(tmp_path: Path, sweep: dict[str, Any]) -> None:
    def too_fast_for_most(params: flops_fit.ParamCount, units: float, unit: str) -> dict[str, Any]:
        return {"lr": 0.01 if params.total < 100 else 1e30, "clip": 1e30, "schedule": "constant"}

    with pytest.raises(FitError, match="[Aa]dd"):
        flops_fit.find_optimal(**{**sweep, "hparams": too_fast_for_most}, output_dir=tmp_path)
    states = [r["state"] for r in csv.DictReader((tmp_path / "runs.csv").read_text().splitlines())]
    assert states.count("diverged") == 9


def test_a_sweep_that_can_determine_no_law_is_refused_before_training(
    tmp_path: Path, sweep: dict[str, Any]
) -> None:
    for change in ({"compute_budgets": [1e6]}, {"sizes": [4, 8], "compute_budgets": [5e5, 1e6]}):
        with pytest.raises(PlanError, match="expected two budgets or more"):
            flops_fit.find_optimal(**{**sweep, **change}, output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


class _Stream(torch.utils.data.IterableDataset):
    def __iter__(self) -> Any:
        blobs = Blobs(1500)
        return (blobs[i] for i in range(1500))


def test_a_stream_trains_like_any_data_set(tmp_path: Path, sweep: dict[str, Any]) -> None:
    result = flops_fit.find_optimal(**{**sweep, "dataset": _Stream()}, output_dir=tmp_path)
    assert {r.state for r in result.runs} == {"completed"}
    assert all(e.epochs is not None and e.epochs > 0 for e in result.plan.experiments)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"compute_budgets": []}, BudgetError, "empty"),
        ({"compute_budgets": ["1e15"]}, BudgetError, "'1e15'"),
        ({"dataset": None}, InputError, "dataset: training needs a data set"),
        ({"loss_fn": None}, InputError, "loss_fn: training needs a loss"),
        ({"dataset": 7}, InputTypeError, "dataset: expected"),
        ({"dataset": iter([])}, InputTypeError, "which is read once"),
        ({"dataset": []}, DataError, "it is empty"),
        ({"eval_dataset": []}, DataError, "eval_dataset: .*it is empty"),
        (
            {"training": {}},
            InputTypeError,
            "training: expected a flops_fit.TrainingConfig; got dict",
        ),
        (
            {"training": TrainingConfig(branch=True)},
            InputError,
            "branch: expected the schedule 'wsd'",
        ),
        ({"dataset": Blobs(3)}, InputError, "at least one batch of 8 samples"),
        ({"executor": "cluster"}, InputError, "executor: expected one of"),
        ({"mode": "mcok"}, InputError, "Did you mean 'mock'"),
    ],
)
def test_bad_input_is_told_before_anything_is_spent(
    tmp_path: Path,
    sweep: dict[str, Any],
    change: dict[str, Any],
    error: type[Exception],
    words: str,
) -> None:
    with pytest.raises(error, match=words):
        flops_fit.find_optimal(**{**sweep, **change}, output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_foreign_folder_is_refused_before_planning(tmp_path: Path, sweep: dict[str, Any]) -> None:
    sweep["dataset"] = Untouchable()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"holds \['notes.txt'\]"):
        flops_fit.find_optimal(**sweep, output_dir=tmp_path)


def test_mock_mode_checks_types_alone(tmp_path: Path) -> None:
    with pytest.raises(InputTypeError, match="dataset: expected"):
        mock(tmp_path, dataset=3)
    with pytest.raises(InputTypeError, match="loss_fn: expected a callable"):
        mock(tmp_path, loss_fn="mse")
    assert mock(tmp_path, dataset=[], loss_fn=None).fit.trust == "caution"  # it is simulated


def test_a_misspelt_argument_names_the_near_one() -> None:
    with pytest.raises(
        TypeError,
        match="unexpected keyword argument 'compute_budget'; did you mean 'compute_budgets'",
    ):
        flops_fit.find_optimal(compute_budget=[1e15])
    with pytest.raises(TypeError, match="'model_size_parm'; did you mean 'model_size_param'"):
        flops_fit.plan_sweep(model_size_parm="d")


def test_the_stages_alone_give_what_the_one_call_gives(
    tmp_path: Path, trained: Path, whole: flops_fit.Result
) -> None:
    plan = flops_fit.plan_sweep(**SWEEP)
    runs = flops_fit.run_sweep(plan, output_dir=trained, progress=False)
    assert runs == list(whole.runs), "a second call reads what the first has run"
    fit = flops_fit.fit_runs(runs, flops_per_unit=plan.flops)
    assert fit.law == whole.fit.law
    assert fit.predict(1e7) == whole.predict(1e7)
    assert flops_fit.write_report(fit, tmp_path / "page.html").exists()


def test_a_plan_without_data_cannot_be_run(tmp_path: Path) -> None:
    plan = flops_fit.plan_sweep(MLP, "width", compute_budgets=[1e9])
    with pytest.raises(InputError, match="made without a data set"):
        flops_fit.run_sweep(plan, output_dir=tmp_path)


def test_a_task_of_ones_own_runs_a_plan(tmp_path: Path) -> None:
    def task(experiment: flops_fit.Experiment, report: Any = None) -> flops_fit.Run:
        return flops_fit.Run(
            experiment, "completed", loss=3.0, tokens=experiment.tokens, flops=experiment.flops
        )

    plan = flops_fit.plan_sweep(MLP, "width", compute_budgets=[1e9])
    runs = flops_fit.run_sweep(plan, task, output_dir=tmp_path, progress=False)
    assert [r.loss for r in runs] == [3.0] * len(plan)


def test_a_folder_that_is_removed_is_written_again_and_said(tmp_path: Path) -> None:
    out, made = tmp_path / "out", []

    def task(experiment: flops_fit.Experiment, report: Any = None) -> flops_fit.Run:
        made.append(experiment)
        if len(made) == 3:
            shutil.rmtree(out)
        return flops_fit.Run(experiment, "completed", loss=3.0)

    plan = flops_fit.plan_sweep(MLP, "width", compute_budgets=[1e9])
    with pytest.raises(OutputError, match="was removed while the sweep ran. 2 results"):
        flops_fit.run_sweep(plan, task, output_dir=out, progress=False)
    runs = flops_fit.run_sweep(plan, task, output_dir=out, progress=False)
    assert len(made) == len(runs) == len(plan)
    assert flops_fit.store.examine(out).sound


def test_repeated_runs_differ_by_their_seed(tmp_path: Path, sweep: dict[str, Any]) -> None:
    sweep.pop("progress")
    plan = flops_fit.plan_sweep(
        **{**sweep, "compute_budgets": [1e6], "sizes": [4, 8], "design": flops_fit.Grid(repeats=3)}
    )
    runs = flops_fit.run_sweep(plan, output_dir=tmp_path, progress=False)
    assert len({r.loss for r in runs}) == 6


class Halved(torch.optim.SGD):
    """Another optimizer than AdamW."""


def test_an_optimizer_of_ones_own_trains_and_makes_other_runs(
    sweep: dict[str, Any], tmp_path: Path
) -> None:
    """It is used, and a run made with it is another run than one with AdamW."""
    sweep.pop("progress")
    usual = flops_fit.plan_sweep(**sweep)
    own = flops_fit.plan_sweep(**sweep, training=TrainingConfig(optimizer=Halved, microbatch=2))
    assert {e.id for e in usual.experiments}.isdisjoint(e.id for e in own.experiments)
    runs = flops_fit.run_sweep(own, output_dir=tmp_path, progress=False)
    assert all(r.state == "completed" for r in runs)
    assert all(r.microbatch == 2 for r in runs)
    curve = (tmp_path / "runs" / runs[0].experiment.id / "metrics.jsonl").read_text()
    assert '"gradient_norm"' in curve
    assert not list(tmp_path.glob("runs/*/checkpoint"))


def test_the_same_runs_whatever_fits_into_memory(sweep: dict[str, Any]) -> None:
    """A microbatch changes no id: what is computed stays the same."""
    sweep.pop("progress")
    configs = [TrainingConfig(microbatch=m) for m in (None, 2)]
    plans = [flops_fit.plan_sweep(**sweep, training=config) for config in configs]
    assert [e.id for e in plans[0].experiments] == [e.id for e in plans[1].experiments]


def test_a_simulated_result_says_so_everywhere(tmp_path: Path) -> None:
    result = mock(tmp_path)
    assert result.fit.trust == "caution"
    first = "SIMULATED: no model was trained."
    assert result.summary().startswith(first)
    assert first in str(result)
    assert "nine in ten" not in result.summary()
    assert "none: the losses are simulated" in result.fit.summary()
    page = result.report().read_text()
    assert page.index('class="banner critical">SIMULATED') < page.index('class="answer lead"')
    read = flops_fit.fit_runs(tmp_path / "runs.csv")
    assert "simulated" in {d.code for d in read.diagnostics}
    assert read.trust != "ok"
