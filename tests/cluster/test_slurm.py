"""SlurmExecutor on a real Slurm: arrays, limits of time, lost nodes, new drivers, ranks, exported plans."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from benchmarks.common.slurm_cluster import SlurmCluster, processes_with, wait_for

import flops_fit
from flops_fit.execute import SlurmExecutor
from flops_fit.records import Run
from tests._scripts import ROOT
from tests.cluster._sweep import PAUSE, digits, plan, sweep
from tests.conftest import make_experiment
from tests.execute import _tasks
from tests.execute.contract import drain

SECONDS = 60.0  # that a job may take to be where a test waits for it


def on_slurm(folder: Path, **options: object) -> SlurmExecutor:
    return SlurmExecutor(folder / "jobs", **{"poll_seconds": 0.1, "cpus_per_run": 2, **options})


def end_as(slurm: SlurmCluster, *states: str) -> None:
    """The jobs end in these states; a job ends some time after its run."""
    with suppress(TimeoutError):
        wait_for(lambda: sorted(j.state for j in slurm.jobs()) == sorted(states), "", SECONDS)
    assert sorted(j.state for j in slurm.jobs()) == sorted(states)


def checkpointed(folder: Path) -> bool:
    return any(folder.glob("there/runs/*/checkpoint/step-*/*"))


@contextmanager
def meanwhile(act: Callable[[], None]) -> Iterator[None]:
    """Does something in a thread; an error of it is one of the test."""
    with ThreadPoolExecutor(1) as pool:
        acting = pool.submit(act)
        yield
        acting.result()


def test_a_sweep_by_an_array_has_the_digits_of_one_in_this_process(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    """Also where the user's files can be written by a group, as by Debian's and Red Hat's defaults."""
    planned = plan(4, 8, 12)
    alone = sweep(planned, "inprocess", tmp_path / "alone")
    before = os.umask(0o002)
    try:
        there = sweep(planned, on_slurm(tmp_path), tmp_path / "there")
    finally:
        os.umask(before)
    assert digits(there) == digits(alone)
    arrays = {job.id.partition("_")[0] for job in slurm.jobs()}
    assert len(slurm.jobs()) == 3
    assert len(arrays) == 1
    left = [p.name for p in (tmp_path / "jobs").iterdir() if not p.name.endswith(".sh")]
    assert left == []


def test_a_job_whose_time_is_up_is_queued_again_and_goes_on_to_the_same_digits(
    slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm itself sends the signal, and starts the job again."""
    planned = plan(8)
    alone = sweep(planned, "inprocess", tmp_path / "alone")
    monkeypatch.setenv(PAUSE, "0.2")
    place = on_slurm(tmp_path, time=1, options={"signal_delay_s": 10})
    (run,) = there = sweep(planned, place, tmp_path / "there")
    assert digits(there) == digits(alone)
    assert run.resumed >= 1
    assert len(slurm.jobs()) == 1


def test_a_job_that_does_not_heed_the_signal_is_ended_by_slurm(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    place = on_slurm(tmp_path, time=1, options={"signal_delay_s": 1})
    place.start(_tasks.deaf, lambda progress: None)
    place.submit(make_experiment())
    (run,) = drain(place, 1)
    place.close()
    assert run.state == "preempted"
    assert "ended as TIMEOUT without a result" in run.reason


def test_a_run_whose_node_dies_goes_on_elsewhere(
    slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan(8)
    alone = sweep(planned, "inprocess", tmp_path / "alone")
    monkeypatch.setenv(PAUSE, "0.1")
    nodes = []

    def die() -> None:
        wait_for(lambda: checkpointed(tmp_path), "a checkpoint", SECONDS)
        nodes.append(slurm.jobs("RUNNING")[0].node)
        slurm.kill(nodes[0])

    with meanwhile(die):
        (run,) = there = sweep(planned, on_slurm(tmp_path), tmp_path / "there")
    assert digits(there) == digits(alone)
    assert run.resumed >= 1
    assert slurm.jobs()[-1].node not in nodes


def test_a_job_that_the_user_cancels_is_lost_and_tried_again(
    slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan(8)
    monkeypatch.setenv(PAUSE, "0.1")

    def cancel() -> None:
        wait_for(lambda: checkpointed(tmp_path), "a checkpoint", SECONDS)
        slurm.ask("scancel", slurm.jobs("RUNNING")[0].id)

    with meanwhile(cancel):
        (run,) = sweep(planned, on_slurm(tmp_path), tmp_path / "there")
    assert (run.state, run.resumed) == ("completed", 1)
    end_as(slurm, "CANCELLED", "COMPLETED")


def test_a_driver_that_is_killed_leaves_its_jobs_to_the_next(
    slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three jobs run and two wait meanwhile; none is submitted twice."""
    monkeypatch.setenv(PAUSE, "0.05")
    sizes = ["4", "6", "8", "10", "12"]
    words = [sys.executable, "-m", "tests.cluster._sweep", "slurm", str(tmp_path), *sizes]
    first = subprocess.Popen(words, cwd=ROOT)
    wait_for(lambda: len(slurm.jobs("RUNNING")) == 3, "three jobs", SECONDS)
    first.kill()
    first.wait()
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.stdout == f"{[('completed', 0)] * 5}\n", done.stderr
    end_as(slurm, *["COMPLETED"] * 5)


def test_a_controller_that_is_away_for_a_while_loses_nothing(
    slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PAUSE, "0.05")

    def away() -> None:
        wait_for(lambda: checkpointed(tmp_path), "a checkpoint", SECONDS)
        slurm.kill("slurmctld")
        time.sleep(15)
        slurm.start("slurmctld")

    with meanwhile(away):
        runs = sweep(plan(4, 8), on_slurm(tmp_path), tmp_path / "there")
    assert [(r.state, r.resumed) for r in runs] == [("completed", 0)] * 2
    assert len(slurm.jobs()) == 2


def test_closing_cancels_what_waits_and_what_runs(slurm: SlurmCluster, tmp_path: Path) -> None:
    place = on_slurm(tmp_path)
    place.start(_tasks.square, lambda progress: None)
    for seed in range(4):
        place.submit(make_experiment(size=_tasks.SLOW, seed=seed))
    place.poll(timeout=0)
    wait_for(lambda: slurm.jobs("RUNNING"), "a job", SECONDS)
    place.close()
    end_as(slurm, *["CANCELLED"] * 4)
    assert slurm.jobs("RUNNING") == slurm.jobs("PENDING") == []


def test_two_tasks_of_a_job_train_one_run(slurm: SlurmCluster, tmp_path: Path) -> None:
    planned = plan(8)
    (alone,) = sweep(planned, "inprocess", tmp_path / "alone")
    place = on_slurm(tmp_path, cpus_per_run=1, ranks_per_run=2)
    (run,) = sweep(planned, place, tmp_path / "there")
    assert (run.state, run.ranks, run.tokens) == ("completed", 2, alone.tokens)
    assert run.loss == pytest.approx(alone.loss, rel=1e-5)
    assert len(slurm.jobs()) == 1


TRAIN = "echo loss: $(({size} * 100)) on $SLURMD_NODENAME; echo x >> {run_dir}/begun"


def told(runs: list[Run]) -> list[tuple[str, float | None]]:
    return sorted((r.state, r.loss) for r in runs)


def test_a_command_is_a_job(slurm: SlurmCluster, tmp_path: Path) -> None:
    task = flops_fit.CommandTask(TRAIN, r"re:loss: (\d+)", shell=True)
    planned = plan(4, 8)
    runs = flops_fit.run_sweep(
        planned, task, executor=on_slurm(tmp_path), output_dir=tmp_path / "out", progress=False
    )
    assert told(runs) == [("completed", 400), ("completed", 800)]


def test_an_exported_plan_is_submitted_collected_and_gone_on_with(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    """The second run fails at first; submitted again, the array makes it alone."""
    (tmp_path / "broken").touch()
    text = f"[ {{size}} != 8 ] || [ ! -e {tmp_path}/broken ] || exit 3; {TRAIN}"
    task = flops_fit.CommandTask(text, r"re:loss: (\d+)", shell=True)
    folder = tmp_path / "out"
    options = {"partition": "main", "gpus": 0, "cpus": 1, "time": "0:05:00", "parallel": 2}
    script = plan(4, 8, 12).export("slurm-array", folder, task, **options)

    def submitted() -> list[tuple[str, float | None]]:
        slurm.ask("sbatch", "--wait", str(script))
        words = [sys.executable, "-m", "flops_fit", "collect", str(folder)]
        print(subprocess.run(words, capture_output=True, text=True).stdout)
        return told(flops_fit.collect(folder))

    with pytest.raises(subprocess.CalledProcessError):  # as one of the array
        submitted()
    assert told(flops_fit.collect(folder)) == [
        ("completed", 400), ("completed", 1200), ("failed", None),
    ]  # fmt: skip
    (tmp_path / "broken").unlink()
    assert submitted() == [("completed", 400), ("completed", 800), ("completed", 1200)]
    assert [p.read_text() for p in folder.glob("runs/*/work/begun")] == ["x\n"] * 3


CTRL_C = """
import time
from benchmarks.common.slurm_cluster import SlurmCluster
with SlurmCluster(nodes=1) as cluster:
    cluster.ask("sbatch", "--output=/dev/null", "--wrap", "sleep 300")
    print(cluster.folder, flush=True)
    time.sleep(300)
"""


def test_nothing_is_left_of_a_cluster_after_ctrl_c() -> None:
    words = [sys.executable, "-c", CTRL_C]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as user:
        folder = user.stdout.readline().strip()
        wait_for(lambda: len(processes_with(folder)) > 4, "its processes", SECONDS)
        user.send_signal(signal.SIGINT)
    assert not Path(folder).exists()
    assert processes_with(folder) == []
