"""Runs come back out of services as they went in, and none whose schedule is not known to have ended."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import flops_fit
from flops_fit import Curves, RunTable, read_mlflow, read_tensorboard, read_wandb
from flops_fit.errors import InputTypeError, MissingExtraError, TableError
from flops_fit.records import Experiment, Run
from flops_fit.trackers import MLflowTracker, TensorBoardTracker, Tracker
from flops_fit.trackers.tracker import ending, reading, settings
from tests.conftest import MLP

pytestmark = pytest.mark.usefixtures("offline")


class Account(Tracker):
    """What W&B's API would have of the runs."""

    def __init__(self) -> None:
        self.runs: dict[str, Any] = {}

    def start(self, experiment: Experiment) -> None:
        nested: dict[str, Any] = {}
        for name, value in settings(experiment).items():
            *path, last = name.split(".")
            at = nested
            for part in path:
                at = at.setdefault(part, {})
            at[last] = value
        rows: list[dict[str, Any]] = []
        self.runs[experiment.id] = SimpleNamespace(
            id=experiment.id,
            name=experiment.label,
            state="running",
            config=nested,
            summary={},
            scan_history=lambda: iter(rows),
            rows=rows,
        )

    def log(self, experiment: Experiment, values: Any) -> None:
        self._row(experiment, reading(experiment, values))

    def finish(self, run: Run) -> None:
        self._end(run, "finished")

    def fail(self, run: Run) -> None:
        self._end(run, "failed")

    def _end(self, run: Run, state: str) -> None:
        self._row(run.experiment, ending(run))
        kept = self.runs[run.experiment.id]
        kept.state = state
        kept.summary |= {"state": run.state, "reason": run.reason}

    def _row(self, experiment: Experiment, values: dict[str, float]) -> None:
        kept = self.runs[experiment.id]
        kept.rows.append({"_step": len(kept.rows), **values})
        kept.summary |= kept.rows[-1]


def services(folder: Path) -> dict[str, tuple[Any, Any]]:
    """A tracker of each service, and what reads its runs again."""
    account = Account()
    return {
        "mlflow": (
            MLflowTracker("sweep", folder / "mlruns"),
            lambda **how: read_mlflow("sweep", folder / "mlruns", **how),
        ),
        "tensorboard": (
            TensorBoardTracker(folder / "board"),
            lambda **how: read_tensorboard(folder / "board", **how),
        ),
        "wandb": (account, lambda **how: read_wandb(account.runs.values(), **how)),
    }


def same_columns(table: RunTable, own: RunTable) -> None:
    """Equal to the last bit, in whatever order."""
    order, other = np.lexsort((table.params, table.budget)), np.lexsort((own.params, own.budget))
    for name in ("params", "tokens", "flops", "loss", "budget", "loss_se", "unique_tokens"):
        mine, theirs = getattr(table, name), getattr(own, name)
        if theirs is None:
            assert mine is None, name
        else:
            np.testing.assert_array_equal(mine[order], theirs[other], err_msg=name)
    assert [table.labels[i] for i in order] == [own.labels[i] for i in other]
    assert table.unit == own.unit


def test_a_sweep_comes_back_as_it_was(sweep: dict[str, Any], tmp_path: Path) -> None:
    """Each run with its N, D, C, loss and budget; its curve with every reading."""
    kept = services(tmp_path)
    trackers = [tracker for tracker, _ in kept.values()]
    sweep.pop("progress")
    sweep |= {"compute_budgets": [5e5, 1e6], "sizes": [8, 12]}
    plan = flops_fit.plan_sweep(**sweep, training=flops_fit.TrainingConfig(trackers=trackers))
    runs = flops_fit.run_sweep(plan, output_dir=tmp_path / "out", progress=False)
    own = RunTable.from_runs(runs)
    assert own.unit == "samples"
    for _, read in kept.values():
        same_columns(RunTable.read(read()), own)
        curves = Curves.read(read())
        assert len(curves) == len(runs)
        for curve in curves:
            run = next(r for r in runs if r.experiment.label == curve.label)
            assert curve.params == run.experiment.params.total
            assert curve.tokens[-1] == run.tokens
            assert curve.flops is not None
            assert curve.flops[-1] == run.flops
        assert any("training loss" in note for note in curves.notes)


@pytest.mark.parametrize("name", ["mlflow", "tensorboard", "wandb"])
def test_a_tracked_sweep_gives_the_fit_of_its_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by approach 1, from the curves beside it."""
    monkeypatch.chdir(tmp_path)
    result = flops_fit.find_optimal(
        MLP,
        "width",
        compute_budgets=[1e9, 3e9, 1e10],
        mode="mock",
        progress=False,
        output_dir="out",
    )
    tracker, read = services(tmp_path)[name]
    rows = []
    for run in result.runs:
        e = run.experiment
        tracker.start(e)
        for part in (0.25, 0.5, 1.0):
            step = max(1, round(part * e.steps))
            values = {"step": step, "units": step * e.batch_size, "loss": 3.0 - part}
            tracker.log(e, values)
            row = {"run": e.label, "params": e.params.total, "tokens": values["units"]}
            rows.append({**row, "loss": values["loss"]})
        tracker.finish(run)
    tracked = read()
    fit = flops_fit.fit_runs(tracked, curves=tracked)
    own = flops_fit.fit_runs(result.runs, curves=rows)
    a, b = fit.predict(1e11), own.predict(1e11)
    assert a.optimal_params == pytest.approx(b.optimal_params, rel=1e-6)
    assert a.optimal_tokens == pytest.approx(b.optimal_tokens, rel=1e-6)
    assert a.expected_loss == pytest.approx(b.expected_loss, rel=1e-9)
    np.testing.assert_array_equal(
        [c.loss for c in sorted(Curves.read(tracked), key=lambda c: c.label)],
        [c.loss for c in sorted(Curves.read(rows), key=lambda c: c.label)],
    )


def foreign(**changes: Any) -> SimpleNamespace:
    """A run of W&B that was tracked by other code."""
    rows = [
        {"_step": i, "train/global_step": 100 * i, "val/loss": 4 - 0.1 * i, "tokens": 1e6 * i}
        for i in range(1, 11)
    ]
    run = {
        "id": "1",
        "name": "r",
        "state": "finished",
        "config": {"n_params": 1e6, "horizon": 1e7, "opt": {"max_steps": 1000}},
        "summary": rows[-1],
        "scan_history": lambda: rows,
        **changes,
    }
    return SimpleNamespace(**run)


def test_a_schedule_that_is_not_told_is_asked_for() -> None:
    with pytest.raises(
        TableError, match=r"how long the schedules.*'planned_tokens'.*complete=True"
    ):
        RunTable.read(read_wandb([foreign()]))
    with pytest.raises(TableError, match="how long the schedules"):
        flops_fit.fit_runs(read_wandb([foreign()]))


@pytest.mark.parametrize(
    "columns",
    [
        {"planned_tokens": "config.horizon"},
        {"planned_steps": "config.opt.max_steps", "step": "summary.train/global_step"},
        {"planned_steps": "config.opt.max_steps"},
    ],
)
def test_a_loss_from_the_middle_of_a_schedule_is_left_out(columns: dict[str, str]) -> None:
    """Though the service calls the run finished; where all are, nothing is left to fit."""
    whole = foreign()
    rows = whole.scan_history()[:6]
    half = foreign(id="2", name="half", scan_history=lambda: rows, summary=rows[-1])
    table = RunTable.read(read_wandb([whole, half]), columns)
    assert table.labels == ("r",)
    assert table.loss.tolist() == [3.0]
    (left_out,) = table.excluded
    assert left_out.label == "half"
    assert "before its schedule ended" in left_out.reason


def test_a_loss_that_was_read_last_in_the_middle_is_left_out() -> None:
    """The run went on to its end, but its last held-out loss is from before."""
    rows = foreign().scan_history()
    for row in rows[6:]:
        del row["val/loss"]
    run = foreign(scan_history=lambda: rows, summary={**rows[-1], "val/loss": 3.4})
    table = RunTable.read(read_wandb([run]), {"planned_tokens": "config.horizon"})
    assert len(table) == 0
    assert "read at 6e+06" in table.excluded[0].reason
    told = RunTable.read(read_wandb([run], complete=True))
    assert told.tokens.tolist() == [6e6]  # those that the loss was reached with


def test_runs_that_do_not_say_are_left_out_beside_those_that_do() -> None:
    silent = foreign(id="2", name="silent", config={"n_params": 1e6})
    table = RunTable.read(read_wandb([foreign(), silent]), {"planned_tokens": "config.horizon"})
    assert [e.label for e in table.excluded] == ["silent"]
    assert "does not say how long its schedule was" in table.excluded[0].reason


def test_completeness_is_vouched_for_and_noted() -> None:
    crashed = foreign(id="2", name="c", state="crashed")
    table = RunTable.read(read_wandb([foreign(), crashed], complete=True))
    assert len(table) == 1
    assert any("complete=True" in note for note in table.notes)
    assert table.excluded[0].reason == "its state is 'crashed', not finished"


def test_a_setting_does_not_tell_how_far_a_run_came() -> None:
    """D as configured is the same in a run that was cut short."""
    run = foreign(config={"n_params": 1e6, "tokens": 1e7, "horizon": 1e7})
    rows = [{"val/loss": 3.0}, {"val/loss": 2.9}]
    run.scan_history, run.summary = lambda: rows, rows[-1]
    with pytest.raises(TableError, match="logged along the way"):
        RunTable.read(read_wandb([run]), {"planned_tokens": "config.horizon"})
    both = {"planned_tokens": "config.tokens", "tokens": "config.tokens"}
    with pytest.raises(TableError, match="both planned_tokens and tokens"):
        RunTable.read(read_wandb([run]), both)
    assert len(RunTable.read(read_wandb([run], complete=True))) == 1


def test_a_plain_table_that_tells_its_schedules_is_held_to_them() -> None:
    rows = [{"N": 1e6, "D": D, "loss": 3.0, "planned_tokens": 1e7} for D in (1e7, 9.95e6, 5e6)]
    table = RunTable.read(rows)
    assert table.tokens.tolist() == [1e7, 9.95e6]
    assert "read at 5e+06" in table.excluded[0].reason


def test_what_runs_do_not_record_is_added() -> None:
    rows = [{"step": s, "bits": 4 - s / 1000} for s in (100, 500, 1000)]
    run = foreign(scan_history=lambda: rows, summary={})

    def add(row: Any) -> dict[str, float]:
        return {"tokens": 512 * row["summary.step"], "loss": row["summary.bits"] * math.log(2)}

    tracked = read_wandb([run], add=add)
    table = RunTable.read(tracked, {"planned_steps": "config.opt.max_steps"})
    assert table.tokens.tolist() == [512e3]
    assert table.loss.tolist() == [3 * math.log(2)]
    (curve,) = Curves.read(tracked)
    assert curve.tokens.tolist() == [51200.0, 256e3, 512e3]
    with pytest.raises(TableError, match="add= asks for 'steps', which no run"):
        read_wandb([run], add=lambda row: {"tokens": row["steps"]})


def test_points_that_were_made_again_count_once() -> None:
    """A resumed run logs the steps after its checkpoint a second time."""
    rows = [
        {"tokens": t, "loss": v} for t, v in ((1, 4), (2, 3.9), (3, 9), (4, 9), (3, 3.8), (4, 3.7))
    ]
    (curve,) = Curves.read(read_wandb([foreign(scan_history=lambda: rows, summary={})]))
    assert curve.tokens.tolist() == [1, 2, 3, 4]
    assert curve.loss.tolist() == [4, 3.9, 3.8, 3.7]


def test_runs_of_one_name_stay_apart() -> None:
    curves = Curves.read(read_wandb([foreign(), foreign(id="2")]))
    assert [c.label for c in curves] == ["r 1", "r 2"]


def test_a_sampled_history_is_said_to_be_one() -> None:
    run = foreign(history=lambda pandas: foreign().scan_history())
    del run.scan_history
    notes = RunTable.read(read_wandb([run], complete=True)).notes
    assert any("Histories are samples" in note for note in notes)


def test_scalars_of_torch_come_back_with_what_is_added(tmp_path: Path) -> None:
    """Event files of torch's own writer, which know neither sizes nor states."""
    from torch.utils.tensorboard import SummaryWriter

    for name in ("small", "large"):
        with SummaryWriter(str(tmp_path / name)) as writer:
            for step in (100, 200):
                writer.add_scalar("loss/val", 3.5 - step / 400, step)
    sizes = {"small": 1e6, "large": 4e6}
    tracked = read_tensorboard(
        tmp_path,
        complete=True,
        add=lambda row: {"params": sizes[row["label"]], "tokens": 64 * row["step"]},
    )
    table = RunTable.read(tracked, {"loss": "loss/val"})
    assert dict(zip(table.labels, table.params, strict=True)) == sizes
    assert table.loss.tolist() == [3.0, 3.0]
    assert table.tokens.tolist() == [12800.0, 12800.0]
    assert [len(c) for c in Curves.read(tracked, {"loss": "loss/val"})] == [2, 2]


def test_what_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TableError, match="mlruns is not there"):
        read_mlflow("sweep", tmp_path / "mlruns")
    assert not (tmp_path / "mlruns").exists()
    (tmp_path / "mlruns").mkdir()
    with pytest.raises(TableError, match="'sweep' is none of"):
        read_mlflow("sweep", tmp_path / "mlruns")
    with pytest.raises(TableError, match=r"named \*tfevents\*, below"):
        read_tensorboard(tmp_path)
    with pytest.raises(InputTypeError, match=r"expected runs of W&B.*got str"):
        read_wandb("user/project")
    with pytest.raises(InputTypeError, match="SimpleNamespace lacks config, summary, state"):
        read_wandb([SimpleNamespace(name="a")])
    with pytest.raises(TableError, match="the table is empty"):
        RunTable.read(read_wandb([]))
    from importlib import util

    monkeypatch.setattr(util, "find_spec", lambda *_: None)
    with pytest.raises(MissingExtraError, match=r"flops-fit\[tensorboard\]"):
        read_tensorboard(tmp_path)


def test_no_run_of_wandb_is_refused_where_it_is_read() -> None:
    with pytest.raises(TableError, match="at least one run of W&B"):
        read_wandb([])
