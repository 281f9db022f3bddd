"""Every service keeps what a run is made with, its curve and how it ended, and finds it again."""

from __future__ import annotations

import os
import pickle
import signal
from pathlib import Path
from typing import Any

import pytest

import flops_fit
from flops_fit import read_mlflow
from flops_fit.errors import InputError, MissingExtraError, TableError
from flops_fit.execute import PoolExecutor
from flops_fit.trackers import MLflowTracker, TensorBoardTracker, WandbTracker, check_trackers
from flops_fit.trackers.tracker import needs, settings
from tests.conftest import make_experiment
from tests.trackers._readers import SERVICES
from tests.trackers.test_tracking import diverging
from tests.train.test_resume import every_reading, same, trainer

pytestmark = pytest.mark.usefixtures("offline")


@pytest.fixture(params=list(SERVICES))
def service(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A tracker and a function that reads what its service has."""
    monkeypatch.chdir(tmp_path)
    make, read = SERVICES[request.param]
    return make(tmp_path), lambda: read(tmp_path)


def test_a_run_is_kept_with_settings_curve_and_held_out_loss(
    service: Any, offline: list[Any]
) -> None:
    """Each number as it was, in double precision, with units and FLOPs at every reading."""
    tracker, read = service
    experiment = make_experiment(model_kwargs={"depth": 3})
    with every_reading():
        run = trainer(trackers=(tracker,))(experiment)
    assert same(run, trainer()(experiment))
    (kept,) = read()
    assert float(kept.settings["params"]) == 160
    assert float(kept.settings["planned_tokens"]) == 400
    assert float(kept.settings["budget"]) == experiment.budget
    assert kept.settings["id"] == experiment.id
    assert kept.settings["label"] == experiment.label
    told = settings(experiment)
    assert told["hparams.lr"] == 0.01
    assert told["model_kwargs.depth"] == 3
    assert set(told) <= set(kept.settings)
    assert [v for _, v in kept.metrics["tokens"]] == [8.0 * s for s in range(1, 51)] + [400.0]
    assert [v for _, v in kept.metrics["flops"]][:50] == [704.0 * 8 * s for s in range(1, 51)]
    assert len(kept.metrics["train_loss"]) == 50
    assert kept.last("val_loss") == run.loss
    assert kept.last("loss_se") == run.loss_se
    assert kept.last("flops") == run.flops
    assert kept.state == "completed"
    assert kept.status in ("", "FINISHED", "0", "1")
    assert offline == []


def test_a_run_that_goes_on_is_continued(service: Any, tmp_path: Path) -> None:
    """One record of one id, though the second attempt is by a new tracker."""
    tracker, read = service
    experiment = make_experiment()

    def interrupt(progress: Any) -> None:
        if progress.step == 20:
            os.kill(os.getpid(), signal.SIGINT)

    again = pickle.loads(pickle.dumps(tracker))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with every_reading():
            with pytest.raises(KeyboardInterrupt):
                trainer(tmp_path / "runs", trackers=(tracker,))(experiment, interrupt)
            (kept,) = read()
            assert kept.state == "preempted"
            assert "KeyboardInterrupt" in kept.reason
            run = trainer(tmp_path / "runs", trackers=(again,))(experiment)
    finally:
        signal.signal(signal.SIGINT, before)
    assert run.resumed == 1
    assert not [note for note in run.notes if "tracker" in note]
    (kept,) = read()
    assert kept.state == "completed"
    seen = [v for _, v in kept.metrics["tokens"]]
    assert sorted(set(seen)) == [8.0 * step for step in range(1, 51)]
    assert kept.last("val_loss") == run.loss


def test_a_run_that_fails_is_kept_with_its_reason(service: Any) -> None:
    tracker, read = service
    run = trainer(trackers=(tracker,))(diverging())
    assert not [note for note in run.notes if "tracker" in note]
    (kept,) = read()
    assert (kept.state, kept.reason) == ("diverged", run.reason)
    assert "val_loss" not in kept.metrics
    assert kept.status in ("", "FAILED", "1", "2")


def test_what_is_open_stays_behind_when_a_tracker_travels(service: Any) -> None:
    """Also in the middle of a run."""
    tracker, _ = service
    tracker.start(make_experiment())
    assert pickle.loads(pickle.dumps(tracker)).opened is None
    assert vars(pickle.loads(pickle.dumps(tracker))) == tracker.__getstate__()
    tracker.fail(flops_fit.Run(make_experiment(), "failed", reason="told to"))


def test_runs_of_a_pool_are_kept_by_their_workers(
    service: Any, sweep: dict[str, Any], tmp_path: Path
) -> None:
    tracker, read = service
    sweep.pop("progress")
    sweep |= {"compute_budgets": [5e5, 1e6], "sizes": [8]}
    plan = flops_fit.plan_sweep(**sweep, training=flops_fit.TrainingConfig(trackers=[tracker]))
    runs = flops_fit.run_sweep(
        plan, executor=PoolExecutor(2, 1), output_dir=tmp_path / "out", progress=False
    )
    assert [note for run in runs for note in run.notes if "tracker" in note] == []
    kept = {k.settings["id"]: k for k in read()}
    assert set(kept) == {r.experiment.id for r in runs}
    for run in runs:
        assert kept[run.experiment.id].last("val_loss") == run.loss


@pytest.mark.parametrize("name", ["mlflow", "tensorboard"])
def test_a_place_that_cannot_be_written_costs_a_note_and_not_the_run(
    name: str, tmp_path: Path
) -> None:
    for taken in ("mlruns", "board"):
        (tmp_path / taken).write_text("a file, no folder")
    run = trainer(trackers=(SERVICES[name][0](tmp_path),))(make_experiment())
    assert run.state == "completed"
    assert "was dropped for this run" in run.notes[-1]


@pytest.mark.parametrize("name", list(SERVICES))
def test_a_missing_package_is_named_at_planning(
    name: str, sweep: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib import util

    real = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda n, *a: None if n == name else real(n, *a))
    sweep.pop("progress")
    with pytest.raises(MissingExtraError, match=rf'pip install "flops-fit\[{name}\]"'):
        flops_fit.TrainingConfig(trackers=[name])


def test_a_folder_of_runs_does_not_pass_for_a_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``./wandb`` is where W&B keeps runs."""
    (tmp_path / "wandb_of_no_package").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtraError, match="which is not installed"):
        needs("wandb_of_no_package", "WandbTracker")


def test_a_service_is_switched_on_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (board,) = check_trackers("tensorboard")
    assert isinstance(board, TensorBoardTracker)
    assert board.folder == tmp_path / "tensorboard"
    _, flow = check_trackers([board, "mlflow"])
    assert isinstance(flow, MLflowTracker)
    assert flow.tracking_uri == (tmp_path / "mlruns").as_uri()
    with pytest.raises(InputError, match=r"trackers\[0\].*'mlflo'. Did you mean 'mlflow'"):
        check_trackers("mlflo")


def test_mlflow_goes_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert MLflowTracker().tracking_uri == "http://tracking:5000"


def test_a_database_without_all_of_mlflow_is_refused_at_planning() -> None:
    with pytest.raises(InputError, match="pip install mlflow. Or give a folder"):
        MLflowTracker("sweep", "sqlite:///mlflow.db")


def test_opening_a_folder_leaves_the_environment_alone(tmp_path: Path) -> None:
    from flops_fit.trackers.mlflow import mlflow_client

    before = dict(os.environ)
    mlflow_client(tmp_path.as_uri())
    assert dict(os.environ) == before


def test_wandb_asks_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: list[Any]
) -> None:
    """Without a login runs are kept offline; online without one is a note that says what to do."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    run = trainer(trackers=(WandbTracker(folder=tmp_path),))(make_experiment())
    assert run.notes == ()
    (kept,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    assert str(tmp_path).encode() not in kept.read_bytes()  # nor host, user and program
    run = trainer(trackers=(WandbTracker(mode="online", folder=tmp_path),))(make_experiment())
    assert "failed in start()" in run.notes[-1]
    assert "wandb login" in run.notes[-1]
    assert offline == []
    with pytest.raises(InputError, match="Did you mean 'online'"):
        WandbTracker(mode="onlin")  # type: ignore[arg-type]


def test_a_damaged_folder_of_mlflow_is_named(tmp_path: Path) -> None:
    """Its reader has no errors of its own for files that are no text, or hold no numbers."""
    tracker = MLflowTracker("sweep", tmp_path / "mlruns")
    trainer(trackers=(tracker,))(make_experiment())
    (path,) = (tmp_path / "mlruns").glob("*/*/metrics/flops")
    for content in (b"\xff\xfe", b"1 x 3"):
        path.write_bytes(content)
        with pytest.raises(TableError, match="expected a sound folder of MLflow's runs"):
            read_mlflow("sweep", tmp_path / "mlruns")
