"""Slurm jobs are queued again when their time is up, found by a new driver, and lost with a reason."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from flops_fit.errors import InputError, MissingExtraError, OutputError, SweepError
from flops_fit.execute import Resources, SlurmExecutor, slurm_jobs
from flops_fit.records import Experiment, Run
from tests.conftest import make_experiment
from tests.execute import _tasks
from tests.execute.contract import drain

pytest.importorskip("submitit")

HELD = "PENDING|launch failed requeued held"  # until someone releases it
RUN = r"""#!{python}
import json, os, signal, subprocess, sys
from pathlib import Path

root, script, name, array, index = Path(sys.argv[1]), sys.argv[2], *sys.argv[3:6]
env = {{k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}}
env.update(SLURM_JOB_ID=name.replace("_", ""), SLURM_NTASKS="1", SLURM_JOB_NUM_NODES="1",
    SLURM_PROCID="0", SLURM_LOCALID="0", SLURM_NODEID="0", SLURM_JOB_NODELIST="localhost")
if array:
    env.update(SLURM_ARRAY_JOB_ID=array, SLURM_ARRAY_TASK_ID=index)
while True:
    job = subprocess.Popen(["bash", script], env=env, start_new_session=True)
    (root / (name + ".pid")).write_text(str(job.pid))
    (root / name).write_text("RUNNING")
    code = job.wait()
    again = root / (name + ".requeue")
    if not again.exists():
        break
    again.unlink()
if (root / name).read_text() == "RUNNING":
    (root / name).write_text("FAILED" if code else "COMPLETED")
"""
SBATCH = r"""#!{python}
import os, re, subprocess, sys
from pathlib import Path

assert os.environ.get("SLURM_CONF", "") == {configuration!r}
assert "SLURM_JOB_ID" not in os.environ
root, text = Path({root!r}), Path(sys.argv[1]).read_text()
job = 100 + len(list(root.glob("*.sbatch")))
(root / (str(job) + ".sbatch")).write_text(text)
script = root / (str(job) + ".sh")
script.write_text(text)
array = re.search(r"--array=0-(\d+)", text)
for i in range(int(array[1]) + 1) if array else [None]:
    name = str(job) if i is None else f"{{job}}_{{i}}"
    (root / name).write_text("PENDING")
    told = ["", ""] if i is None else [str(job), str(i)]
    subprocess.Popen([{run!r}, str(root), str(script), name, *told], start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print("Submitted batch job", job)
"""
SACCT = SQUEUE = r"""#!{python}
import sys
from pathlib import Path

# The controller forgets jobs that have ended; accounting has only them.
live = "squeue" in sys.argv[0]
for path in Path({root!r}).iterdir():
    if not path.suffix and path.read_text().startswith(("PENDING", "RUNNING")) == live:
        print(f"{{path.name}}|{{path.read_text()}}")
"""
SCANCEL = r"""#!{python}
import os, signal, sys
from pathlib import Path

root = Path({root!r})
(root / sys.argv[1]).write_text("CANCELLED by 0")
try:
    os.killpg(int((root / (sys.argv[1] + ".pid")).read_text()), signal.SIGTERM)
except (OSError, ValueError):
    pass
"""
SCONTROL = r"""#!{python}
import sys
from pathlib import Path

assert sys.argv[1] == "requeue"
(Path({root!r}) / (sys.argv[2] + ".requeue")).touch()
"""
SRUN = r"""#!/bin/bash
while [[ $1 == --* ]]; do case $1 in --unbuffered) shift;; *) shift 2;; esac; done
exec "$@"
"""


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([p for p in sys.path if p]))


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The commands of Slurm, which run jobs here; the folder of what they know of each job."""
    commands, known = tmp_path / "bin", tmp_path / "known"
    conf = str(tmp_path / "slurm.conf")
    monkeypatch.setenv("SLURM_CONF", conf)  # of the site
    monkeypatch.setenv("SLURM_JOB_ID", "7")  # of the driver's own job
    commands.mkdir()
    known.mkdir()
    scripts = {"sbatch": SBATCH, "sacct": SACCT, "scancel": SCANCEL, "scontrol": SCONTROL}
    scripts["squeue"] = SQUEUE
    run = commands / "run-job"
    for name, text in {**scripts, "run-job": RUN}.items():
        (commands / name).write_text(
            text.format(python=sys.executable, root=str(known), run=str(run), configuration=conf)
        )
    (commands / "srun").write_text(SRUN)
    for path in commands.iterdir():
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(slurm_jobs, "_QUERY_SECONDS", 0.2)
    monkeypatch.setattr(slurm_jobs, "_LAG_SECONDS", 0.5)
    return known


def until(there: Path) -> None:
    end = time.monotonic() + 30
    while not there.exists():
        assert time.monotonic() < end
        time.sleep(0.05)


def step_of(path: Path) -> int:
    """What the batch script of a job runs, which alone gets Slurm's warning."""
    script = path.read_text()
    return int(Path(f"/proc/{script}/task/{script}/children").read_text().split()[0])


def test_a_sweep_is_one_array_with_what_was_asked_for(slurm: Path, tmp_path: Path) -> None:
    executor = SlurmExecutor(
        tmp_path / "jobs",
        partition="small",
        time=90,
        cpus_per_run=3,
        poll_seconds=0.1,
        options={"account": "lab"},
    )
    executor.start(_tasks.square, lambda progress: None)
    for size in (2, _tasks.WRONG, _tasks.KILLED):
        executor.submit(make_experiment(size=size))
    runs = {r.experiment.size: r for r in drain(executor, 3)}
    executor.close()
    assert runs[2].loss == 4
    assert (runs[17].state, runs[17].reason) == ("failed", "ValueError: a mistake of the user's")
    assert runs[13].state == "preempted"
    assert "ended as FAILED without a result" in runs[13].reason
    (script,) = slurm.glob("*.sbatch")
    text = script.read_text()
    for line in ("partition=small", "time=90", "cpus-per-task=3", "account=lab", "array=0-2%3"):
        assert f"#SBATCH --{line}" in text
    left = {p.name for p in (tmp_path / "jobs").iterdir() if p.suffix in (".pkl", ".task")}
    assert not left, "what is done with is removed"
    assert (tmp_path / "jobs").stat().st_mode & 0o077 == 0


def test_a_new_driver_finds_the_jobs_of_one_that_died(slurm: Path, tmp_path: Path) -> None:
    """Nothing is submitted twice, and a job of which Slurm knows nothing is submitted again."""
    (tmp_path / "notes").mkdir()
    first, second = (
        SlurmExecutor(tmp_path / "jobs", poll_seconds=0.1, max_jobs=1) for _ in range(2)
    )
    task, experiment = _tasks.Long(tmp_path / "notes"), make_experiment()
    first.start(task, print)
    first.submit(experiment)
    assert first.poll(timeout=0.2) == []
    kept = (tmp_path / "jobs" / "100_submitted.pkl").read_bytes()
    until(tmp_path / "notes" / f"{experiment.id}.begun")

    second.start(task, print)
    second.submit(experiment)
    os.kill(step_of(slurm / "100.pid"), signal.SIGUSR2)  # its time is up
    (run,) = drain(second, 1)
    assert (run.loss, run.resumed) == (1.0, 1), "it kept a note, was queued again and found it"
    assert len(list(slurm.glob("*.sbatch"))) == 1
    assert not list((tmp_path / "jobs").glob("*.pkl"))

    (tmp_path / "jobs" / "999_submitted.pkl").write_bytes(kept)
    third = SlurmExecutor(tmp_path / "jobs", poll_seconds=0.1)
    third.start(_tasks.square, print)
    third.submit(experiment)
    assert [r.loss for r in drain(third, 1)] == [64]
    assert len(list(slurm.glob("*.sbatch"))) == 2
    third.close()


def test_a_job_lives_as_long_as_the_controller_says(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a site keeps no accounting too; and where nobody answers it is not submitted again."""
    (tmp_path / "bin" / "sacct").unlink()
    monkeypatch.setattr(slurm_jobs, "_UNKNOWN_SECONDS", 0.1)

    def lasting(experiment: Experiment, report=None) -> Run:
        time.sleep(4)
        return _tasks.square(experiment)

    first, second = (SlurmExecutor(tmp_path / "jobs", poll_seconds=0.1) for _ in range(2))
    experiment = make_experiment()
    first.start(lasting, print)
    first.submit(experiment)
    assert first.poll(timeout=2) == []
    squeue = tmp_path / "bin" / "squeue"
    squeue.rename(tmp_path / "bin" / "away")
    second.start(lasting, print)
    second.submit(experiment)
    assert second.poll(timeout=0) == []
    (tmp_path / "bin" / "away").rename(squeue)
    assert [run.loss for run in drain(second, 1)] == [64]
    assert len(list(slurm.glob("*.sbatch"))) == 1
    second.close()


@pytest.mark.parametrize("state", ["NODE_FAIL", "PREEMPTED", "TIMEOUT", "OUT_OF_MEMORY", HELD])
def test_a_job_that_slurm_ends_is_preempted_with_its_state(
    slurm: Path, tmp_path: Path, state: str
) -> None:
    executor = SlurmExecutor(tmp_path / "jobs", poll_seconds=0.1)
    executor.start(_tasks.square, print)
    executor.submit(make_experiment(size=_tasks.SLOW))
    assert executor.poll(timeout=0.3) == []
    until(slurm / "100.pid")
    (slurm / "100").write_text(state)
    os.killpg(int((slurm / "100.pid").read_text()), signal.SIGKILL)
    (run,) = drain(executor, 1)
    executor.close()
    assert run.state == "preempted"
    assert f"its Slurm job 100 ended as {state.split('|')[-1]} without a result" in run.reason
    assert (slurm / "100").read_text().startswith("CANCELLED" if state == HELD else state)


def test_a_cancelled_job_is_cancelled_at_slurm(slurm: Path, tmp_path: Path) -> None:
    executor = SlurmExecutor(tmp_path / "jobs", poll_seconds=0.1)
    executor.start(_tasks.square, print)
    handle = executor.submit(make_experiment(size=_tasks.SLOW))
    assert executor.poll(timeout=0.3) == []
    until(slurm / "100.pid")
    assert executor.cancel(handle)
    assert executor.poll() == []
    assert (slurm / "100").read_text().startswith("CANCELLED")
    executor.close()


def test_ranks_become_tasks_of_one_machine_or_of_several(slurm: Path, tmp_path: Path) -> None:
    executor = SlurmExecutor(tmp_path / "jobs", gpus_per_run=lambda e: e.size, gpus_per_node=4)
    executor.start(_tasks.square, print)
    asked = [executor._parameters(Resources(gpus=g, seconds=100)) for g in (1, 4, 8)]
    names = ("nodes", "ntasks_per_node", "gpus_per_node", "time")
    assert [tuple(a[n] for n in names) for a in asked] == [(1, 1, 1, 2), (1, 4, 4, 2), (2, 4, 4, 2)]
    with pytest.raises(InputError, match="gpus_per_run: expected at most the 4 GPUs"):
        executor.submit(make_experiment(size=6))
    executor.close()


def test_without_slurm_one_is_told_where_to_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SweepError, match="login node"):
        SlurmExecutor(tmp_path).start(_tasks.square, print)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(MissingExtraError, match=r"flops-fit\[slurm\]"):
        SlurmExecutor(tmp_path).start(_tasks.square, print)


def test_wrong_options_are_told_before_anything_runs(slurm: Path, tmp_path: Path) -> None:
    executor = SlurmExecutor(tmp_path / "jobs", options={"partitoin": "x"})
    executor.start(_tasks.square, print)
    executor.submit(make_experiment())
    with pytest.raises(SweepError, match="the jobs were not accepted .*partitoin"):
        executor.poll()
    executor.close()


def test_no_option_is_a_command_of_a_shell(slurm: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    command = f"x; touch {ran} $(touch {ran}) `touch {ran}` ' \" &"
    options = {"account": command, "comment": command, "gres": command}
    executor = SlurmExecutor(
        tmp_path / f"jobs {command.replace('/', '')}", command, options=options
    )
    executor.start(_tasks.square, lambda progress: None)
    executor.submit(make_experiment())
    executor._fill()
    (script,) = slurm.glob("*.sbatch")
    assert script.read_text().count("$(touch") >= 4
    until(next(iter(executor._running.values())).job.paths.result_pickle)
    executor.close()
    assert not ran.exists()
    for wrong in ({"partition": f"x\ntouch {ran}"}, {"options": {"comment": f"x\rtouch {ran}"}}):
        with pytest.raises(InputError, match="expected one line of text for sbatch"):
            SlurmExecutor(tmp_path / "jobs", **wrong)
    with pytest.raises(InputError, match="folder: expected one line"):
        SlurmExecutor(tmp_path / f"jobs\ntouch {ran}")


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no modes")
def test_a_folder_that_others_could_write_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(words: str) -> None:
        executor = SlurmExecutor(tmp_path / "jobs", cluster="local")
        with pytest.raises(OutputError, match=words):
            executor.start(_tasks.square, lambda progress: None)

    folder = tmp_path / "jobs"
    folder.mkdir()
    for mode in (0o777, 0o1777, 0o770):
        folder.chmod(mode)
        refused(rf"can be written by others \(mode {mode:o}\)")
    folder.chmod(0o755)
    laid = folder / "1_0_result.pkl"
    laid.touch()
    laid.chmod(0o666)
    refused("1_0_result.pkl can be written by others")
    laid.chmod(0o644)
    folder.chmod(0o700)
    SlurmExecutor(folder, cluster="local").start(_tasks.square, lambda progress: None)
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    refused("jobs belongs to user")
    monkeypatch.undo()
    executor = SlurmExecutor(folder, cluster="local")
    executor.start(_tasks.square, lambda progress: None)
    (task,) = folder.glob("*.task")
    executor.submit(make_experiment())
    executor._fill()
    (job,) = folder.glob("*_submitted.pkl")
    assert {path.stat().st_mode & 0o777 for path in (task, job)} == {0o600}
    executor.close()


def test_a_line_without_a_state_says_nothing() -> None:
    """As of a controller that is about to remove the job."""
    said = "1|\\n2|RUNNING|None\\n\\n3|CANCELLED by 0|x\\n4|PENDING|launch failed requeued held\\nodd\\n"
    held = slurm_jobs._HELD
    assert slurm_jobs._states("printf", said) == {"2": "RUNNING", "3": "CANCELLED", "4": held}
    assert slurm_jobs._states("false") is None
