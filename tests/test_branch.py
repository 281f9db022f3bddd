"""Runs of one size share a trunk and come out, to the last bit, as they would have alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flops_fit import Mock, TrainingConfig, fit_runs, plan_sweep, run_sweep
from flops_fit.errors import InputError
from flops_fit.execute import InProcessExecutor, PoolExecutor
from flops_fit.plan import SweepPlan
from flops_fit.records import Experiment, Run, branch_step, own_flops
from flops_fit.store import Store
from flops_fit.table import RunTable
from tests.conftest import Blobs, cross_entropy, make_experiment
from tests.train.test_resume import Dropped

HPARAMS = {"schedule": "wsd", "batch_units": 4, "warmup_units": 100.0, "cooldown": 0.25}
# Times, who computed what, and spikes, which are told from readings twice a second.
COUNTS: dict[str, Any] = {
    "seconds": 0.0,
    "units_per_second": 0.0,
    "resumed": 0,
    "flops_shared": 0.0,
    "spikes": (),
}


def plan_of(**changes: Any) -> SweepPlan:
    arguments: dict[str, Any] = {
        "model_cls": Dropped,
        "model_size_param": "width",
        "dataset": Blobs(1000),
        "loss_fn": cross_entropy,
        "compute_budgets": [2.5e5, 5e5, 1e6],
        "sizes": [8, 12],
        "hparams": HPARAMS,
        "training": TrainingConfig(branch=True),
    }
    return plan_sweep(**{**arguments, **changes})


def outcome(run: Run) -> Run:
    """What has to be the same."""
    return replace(run, **COUNTS)


@pytest.fixture(scope="module")
def plan() -> SweepPlan:
    return plan_of()


@pytest.fixture(scope="module")
def alone(plan: SweepPlan) -> list[Run]:
    """Every run by itself, from its first step to its last."""
    assert plan.task is not None
    return [plan.task(experiment) for experiment in plan.experiments]


@pytest.mark.parametrize("executor", [InProcessExecutor(), PoolExecutor(2, 1)])
def test_a_branch_is_to_the_last_bit_the_run_it_would_have_been_alone(
    executor: Any, plan: SweepPlan, alone: list[Run], tmp_path: Path
) -> None:
    """Dropout, momenta, batches and rates included; and the trunk is computed once."""
    runs = run_sweep(plan, executor=executor, output_dir=tmp_path, progress=False)
    assert [r.state for r in runs] == ["completed"] * 6
    assert [outcome(r) for r in runs] == [outcome(r) for r in alone]
    assert sum(r.flops_spent for r in runs) == pytest.approx(plan.total_flops, rel=1e-12)
    assert [r.flops_shared for r in alone] == [0.0] * 6
    assert sum(r.flops_shared > 0 for r in runs) == 4
    assert not (tmp_path / "trunks").exists()


def test_the_branches_differ_from_runs_of_another_seed(plan: SweepPlan, alone: list[Run]) -> None:
    """The equality above is not that of everything with everything."""
    assert plan.task is not None
    other = plan.task(replace(plan.experiments[0], seed=1))
    assert other.loss != alone[0].loss


def test_without_the_trunks_folder_a_run_trains_its_trunk_itself(
    plan: SweepPlan, alone: list[Run], tmp_path: Path
) -> None:
    """The longest first, alone in its folder."""
    trainer = plan.task.in_folder(tmp_path / "runs", tmp_path / "trunks")  # type: ignore[union-attr]
    run = trainer(plan.experiments[-1])
    assert outcome(run) == outcome(alone[-1])
    assert run.flops_shared == 0.0


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("at", ["trunk", "cooldown"])
def test_a_branch_that_is_killed_goes_on_and_owns_what_it_had_computed(
    at: str, plan: SweepPlan, alone: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it leaves the trunk and after; the snapshot that it left itself is not another's."""
    monkeypatch.setattr("flops_fit.train.trainer._REPORT_SECONDS", -1.0)
    chain = [e for e in plan.experiments if e.size == 8]
    expected = {r.experiment.id: r for r in alone}
    trainer = plan.task.in_folder(tmp_path / "runs", tmp_path / "trunks")  # type: ignore[union-attr]
    for experiment in chain:
        stop = branch_step(experiment) + (5 if at == "cooldown" else -5)

        def kill(progress: Any, stop: int = stop) -> None:
            if progress.step == stop:
                raise _Killed

        with pytest.raises(_Killed):
            trainer(experiment, kill)
        run = trainer(experiment)
        assert outcome(run) == outcome(expected[experiment.id])
        before = own_flops(chain)[experiment.id]
        assert run.flops_spent == pytest.approx(before, rel=1e-12)
    steps = sorted(p.name for p in (tmp_path / "trunks" / chain[0].trunk).iterdir())
    assert steps == [f"step-{branch_step(e):08d}" for e in chain]


def test_a_torn_snapshot_costs_time_and_nothing_else(
    plan: SweepPlan, alone: list[Run], tmp_path: Path
) -> None:
    """It is set aside and named, and the run trains the trunk itself."""
    short, long = [e for e in plan.experiments if e.size == 8][:2]
    trainer = plan.task.in_folder(tmp_path / "runs", tmp_path / "trunks")  # type: ignore[union-attr]
    trainer(short)
    state = next((tmp_path / "trunks").glob("*/*/state.pt"))
    state.write_bytes(state.read_bytes()[:-100])
    run = trainer(long)
    assert run.flops_shared == 0.0
    assert "is not used" in run.notes[0]
    expected = next(r for r in alone if r.experiment.id == long.id)
    assert replace(outcome(run), notes=()) == outcome(expected)


class _Watching:
    """An executor of two runs at a time, of which the later one always ends first."""

    capacity = 2

    def __init__(self, fails: str = "") -> None:
        self.queue: list[Experiment] = []
        self.order: list[str] = []
        self.fails = fails

    def start(self, task: Any, report: Any) -> None: ...

    def submit(self, experiment: Experiment) -> None:
        self.queue.append(experiment)
        self.order.append(experiment.label)
        trunks = [e.trunk for e in self.queue]
        assert len(trunks) == len(set(trunks))

    def poll(self) -> list[Run]:
        experiment = self.queue.pop(1 if len(self.queue) > 1 else 0)
        if experiment.label == self.fails:
            return [Run(experiment, "failed", reason="the disk is full")]
        return [Run(experiment, "completed", loss=1.0)]

    def close(self) -> None: ...


@pytest.mark.parametrize("fails", ["", "C=2.5e+05 size=8"])
def test_longer_branches_start_when_the_shorter_have_ended_whatever_their_state(
    fails: str, plan: SweepPlan, tmp_path: Path
) -> None:
    """Two trunks go on at the same time, two branches of one never do."""
    executor = _Watching(fails)
    runs = run_sweep(plan, executor=executor, output_dir=tmp_path, progress=False)
    assert len(runs) == 6
    for size in (8, 12):
        assert [o for o in executor.order if f"size={size}" in o] == [
            e.label for e in plan.experiments if e.size == size
        ]


def test_snapshots_stay_as_long_as_a_missing_run_needs_them(
    plan: SweepPlan, tmp_path: Path
) -> None:
    """The newest at or before its branch step; and what is not a trunk's is left alone."""
    store = Store.open(tmp_path)
    chain = [e for e in plan.experiments if e.size == 8]
    trainer = plan.task.in_folder(store.runs, store.trunks)  # type: ignore[union-attr]
    (store.trunks / "notes").mkdir(parents=True)
    ended = {e.id: trainer(e) for e in chain[:2]}

    def left() -> list[str]:
        return sorted(p.name for p in store.trunks.glob("*/step-*"))

    assert len(left()) == 2
    store.prune(chain, ended)
    assert left() == [f"step-{branch_step(chain[1]):08d}"]
    store.prune(chain, {**ended, chain[2].id: Run(chain[2], "failed")})
    assert len(left()) == 1
    store.prune(chain, {**ended, chain[2].id: Run(chain[2], "diverged")})
    assert [p.name for p in store.trunks.iterdir()] == ["notes"]


def test_runs_of_a_trunk_are_a_cluster_of_the_fit(tmp_path: Path) -> None:
    """From Run objects, from runs.csv and from the store alike; other intervals, the same law."""
    arguments = {"compute_budgets": [3e5, 1e6, 3e6, 1e7], "sizes": list(range(4, 26, 2))}
    hparams = {**HPARAMS, "warmup_units": 10.0}
    plan = plan_of(**arguments, hparams=hparams, mode=Mock(noise=0.02))
    runs = run_sweep(plan, output_dir=tmp_path, progress=False)
    again = run_sweep(plan, output_dir=tmp_path, progress=False)
    tables = [RunTable.read(s) for s in (runs, again, tmp_path / "runs.csv")]
    for table in tables:
        assert table.cluster is not None
        assert len(set(table.cluster)) == 11
        assert len(table) == len(plan) > 40
    assert tables[0].cluster == tables[1].cluster == tables[2].cluster
    clustered = fit_runs(runs, "hoffmann", window=None)
    single = fit_runs(replace(tables[0], cluster=None), "hoffmann", window=None)
    assert clustered.law == single.law
    widths = []
    for fit in (clustered, single):
        low, high = fit.predict(1e8).intervals["optimal_params"]
        widths.append(np.log(high / low))
    assert widths[0] != pytest.approx(widths[1], rel=1e-3)


def test_runs_without_a_trunk_share_their_noise_with_none() -> None:
    """In one table with branches, each is a cluster of its own; without branches there are none."""
    pair = [make_experiment(trunk="t"), make_experiment(trunk="t", budget=1.0)]
    lone = [make_experiment(budget=2.0), make_experiment(budget=3.0)]
    runs = [Run(e, "completed", loss=1.0, tokens=400, flops=1e5) for e in (*pair, *lone)]
    clusters = RunTable.from_runs(runs).cluster
    assert clusters is not None
    assert clusters[:2] == ("t", "t")
    assert len(set(clusters)) == 3
    assert RunTable.from_runs(runs[2:]).cluster is None
    rows = [{"N": 10.0 * i, "D": 10.0, "loss": 1.0, "cluster": c} for i, c in enumerate("ab", 1)]
    assert RunTable.read([*rows, {"N": 5.0, "D": 1.0, "loss": 2.0, "cluster": ""}]).cluster == (
        "a",
        "b",
        "run 3 alone",
    )


def test_a_trunk_of_anything_but_wsd_is_refused() -> None:
    """The message says what would do."""
    with pytest.raises(InputError, match=r"got 'cosine'.*Give hparams=\{\"schedule\": \"wsd\""):
        plan_of(hparams="default")
