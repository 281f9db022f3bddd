"""``flops-fit run`` with a trainer that is a command."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import flops_fit
from flops_fit.cli.sweep_commands import _by_command
from flops_fit.cli.sweep_file import read_sweep
from tests.cli._calls import called

SWEEP = """
compute_budgets = [1e9, 2e9, 4e9, 8e9]
sizes = [2, 3, 4, 6, 8]
batch_size = 4

[model_cls.params]
2 = 4000
3 = 9000
4 = 16000
6 = 36000
8 = 64000

[mode]
kind = "command"
command = "sh train.sh {params} {tokens}"
loss = "re:loss: (.*)"
exit_codes = { 75 = "preempted" }
"""
TRAIN = 'awk "BEGIN { print \\"loss: \\" 1.5 + 20 / $1 ^ .4 + 30 / $2 ^ .4 }"'


def test_a_sweep_file_may_name_sizes_and_a_command(tmp_path: Path) -> None:
    """The command starts in the folder of the file."""
    (tmp_path / "sweep.toml").write_text(SWEEP)
    (tmp_path / "train.sh").write_text(TRAIN)
    arguments = read_sweep(tmp_path / "sweep.toml", {}, trust=True).arguments()
    task, out = arguments["mode"], arguments.pop("output_dir")
    assert (task.cwd, dict(task.exit_codes)) == (str(tmp_path), {75: "preempted"})
    plan = flops_fit.plan_sweep(**arguments)
    assert len(plan) == 20
    runs = flops_fit.run_sweep(plan, output_dir=out, progress=False)
    assert {run.state for run in runs} == {"completed"}
    assert min(run.loss for run in runs) > 1.5


def test_a_command_on_the_command_line_takes_the_place_of_that_of_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sweep.toml").write_text(
        SWEEP.split("[model_cls")[0] + '[model_cls]\nparams = "sizes.csv"\n'
    )
    sizes = "".join(f"{size},{1000 * size**2}\n" for size in (2, 3, 4, 6, 8))
    (tmp_path / "sizes.csv").write_text(f"size,params\n{sizes}")
    command = f"{shlex.quote(sys.executable)} -c 0 --dim {{sise}}"
    done = called(
        capsys, "run", tmp_path / "sweep.toml", "--command", command, "--loss-from", "a.json:b"
    )
    assert done.code == 2
    assert "got {sise}. Did you mean 'size'?" in done.err
    done = called(capsys, "run", tmp_path / "sweep.toml", "--command", "false", "--no-progress")
    assert "the first two runs failed for the same reason" in done.err


def test_a_file_that_is_not_trusted_starts_no_program(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor does its environment reach a command of the user's own."""
    path = tmp_path / "sweep.toml"
    path.write_text(f'{SWEEP}shell = true\n[mode.env]\nBASH_ENV = "evil"\n')
    for arguments in ([], ["--loss-from", "a.json:b"], ["--set", "mode.shell=false"]):
        done = called(capsys, "run", path, *arguments)
        assert done.code == 2
        assert "which is not trusted; got 'sh train.sh {params} {tokens}'" in done.err
    for trust, env in ((False, {}), (True, {"BASH_ENV": "evil"})):
        sweep = _by_command(read_sweep(path, {}, trust=trust), "train {size}", None)
        task = sweep.arguments()["mode"]
        assert (task.command, dict(task.env), task.shell) == ("train {size}", env, trust)
    assert not (tmp_path / "outputs").exists()


def test_a_plan_is_exported_and_its_results_are_collected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And a sweep by the same command knows them."""
    (tmp_path / "sweep.toml").write_text(SWEEP.partition("[mode]")[0])
    (tmp_path / "train.sh").write_text(TRAIN)
    command = ["--command", f"sh {tmp_path}/train.sh {{params}} {{tokens}}"]
    command += ["--loss-from", "re:loss: (.*)"]
    path = tmp_path / "sweep.toml"
    done = called(capsys, "plan", path, *command, "--export", "slurm-array")
    assert "expected partition= too" in done.err
    done = called(
        capsys, "plan", path, *command, "--export", "slurm-array", "--option", "partition=gpu"
    )
    assert done.out.splitlines()[-1] == f"Exported: {tmp_path}/outputs/array.sbatch"
    env = {**os.environ, "SLURM_ARRAY_TASK_ID": "3"}
    subprocess.run(["bash", tmp_path / "outputs" / "array.sbatch"], env=env, check=True)
    done = called(capsys, "collect", tmp_path / "outputs")
    assert done.out.startswith("1 runs have ended: 1 completed; 19 have not.\n")
    done = called(capsys, "plan", path, *command)
    assert "1 of these runs are finished" in done.out
