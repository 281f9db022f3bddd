"""A trainer that is a command: what it is given, how it ends, and what is left of it."""

from __future__ import annotations

import functools
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import flops_fit
from flops_fit.errors import InputError, InputTypeError, SweepError
from flops_fit.execute import PoolExecutor, Resources
from flops_fit.execute.command import OUTPUT
from flops_fit.execute.process import Setting, _see_gpu
from flops_fit.files import WORK
from flops_fit.plan.export import planned_values
from flops_fit.records import Run
from tests.conftest import make_experiment


def ran(tmp_path: Path, command: str, *loss: Any, size: Any = 8, **options: Any) -> Run:
    task = flops_fit.CommandTask(command, *loss, folder=tmp_path / "runs", **options)
    return task(make_experiment(size=size))


def script(tmp_path: Path, text: str) -> str:
    path = tmp_path / "train.sh"
    path.write_text(text)
    return f"sh {path}"


@pytest.mark.parametrize(
    ("text", "state", "reason"),
    [
        ("echo loss: 2.5", "completed", ""),
        ("echo loss: nan; exit 1", "diverged", "it reports a loss of nan"),
        ("echo no such option >&2; exit 2", "failed", "the command exited with 2: no such option"),
        ("echo RuntimeError: CUDA out of memory; exit 1", "oom", "exited with 1, out of memory"),
        ("kill -9 $$", "oom", "killed by signal 9, as where the system lacks memory"),
        ("exit 137", "oom", "exited with 137"),
        ("kill $$", "preempted", "killed by signal 15"),
        ("echo loss: 2.5; exit 75", "preempted", "exited with 75: loss: 2.5"),
        ("echo done", "failed", "nothing that the command printed matches 'loss: "),
    ],
)
def test_the_end_of_a_command_is_the_state_of_its_run(
    text: str, state: str, reason: str, tmp_path: Path
) -> None:
    run = ran(tmp_path, script(tmp_path, text), r"re:loss: (\S+)", exit_codes={75: "preempted"})
    assert run.state == state
    assert reason in run.reason
    assert run.loss == (2.5 if state == "completed" else None)
    if state == "completed":
        assert (run.tokens, run.flops) == (400, 400 * 704.0)


@pytest.mark.parametrize(
    ("files", "loss"),
    [
        ({"result.json": '{"val_loss": 1.5, "loss": 9}'}, None),
        ({"all_results.json": '{"train_loss": 9, "eval_loss": 1.5}'}, None),
        ({"metrics.jsonl": '{"step": 1, "loss": 9}\n{"step": 2, "loss": 1.5}\n{"step":'}, None),
        ({"metrics.jsonl": '{"step": 1, "loss": 1.5}\n' + "[" * 99_999}, None),
        ({"log.csv": "step,val\n1,9\n2,1.5\n3,\n"}, "log.csv:val"),
        ({"wandb/run-1/files/s.json": '{"val": {"loss": 1.5}}'}, "wandb/*/files/s.json:val.loss"),
        ({"8.json": '[{"loss": 9}, {"loss": 1.5}]'}, "{size}.json"),
        ({"x": "1.5"}, lambda run_dir, output: float((run_dir / "x").read_text())),
        ({}, r"re:step \d+ loss=(?P<loss>\S+)"),
    ],
)
def test_a_loss_is_read_from_where_it_is(files: dict[str, str], loss: Any, tmp_path: Path) -> None:
    work = tmp_path / "runs" / make_experiment().id / WORK
    for name, text in files.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text(text)
    run = ran(tmp_path, script(tmp_path, "echo step 1 loss=9; echo step 2 loss=1.5"), loss)
    assert (run.state, run.loss) == ("completed", 1.5)


def test_a_scalar_of_tensorboard_is_a_loss(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(tmp_path / "runs" / make_experiment().id / WORK / "tb"))
    for step, value in enumerate((9.0, 2.5)):
        summary = Summary(value=[Summary.Value(tag="val/loss", simple_value=value)])
        writer.add_event(Event(step=step, summary=summary))
    writer.close()
    assert ran(tmp_path, "true", "tensorboard:val/loss").loss == 2.5
    assert "no scalar 'loss'" in ran(tmp_path, "true", "tensorboard:loss").reason


def test_what_else_a_trainer_reports_is_recorded_and_compared_with_the_plan(
    tmp_path: Path,
) -> None:
    record = '{"loss": 1, "tokens": 300, "params": 170, "loss_se": 0.1}'
    text = f"cd $FLOPS_FIT_RUN_DIR; echo '{record}' > result.json"
    run = ran(tmp_path, script(tmp_path, text))
    assert (run.tokens, run.flops, run.experiment.params.total) == (300, 300 * 704.0, 170)
    assert (run.loss_se, run.experiment.id) == (0.1, make_experiment().id)
    assert run.notes == (
        "the command reports 170 params; planned were 160",
        "the command reports 300 tokens; planned were 400",
    )


@pytest.mark.parametrize(
    ("reports", "told"),
    [
        (
            {"train_loss": 1.0},
            "loss: expected a number; the command reports train_loss and no loss.",
        ),
        (None, "loss: expected a number; the command reports nothing and no loss."),
        (
            {"loss": 2.0, "tokens": float("nan")},
            "tokens: expected a finite number, 1 or more; .* nan.",
        ),
        ({"loss": 2.0, "tokens": float("inf")}, "tokens: .* reports inf."),
        ({"loss": 2.0, "params": 0}, "params: .* reports 0."),
        ({"loss": 2.0, "flops": "inf"}, "flops: .* reports inf."),
        ({"loss": [2.0]}, r"loss: it cannot be read \(TypeError: .*list"),
        (ZeroDivisionError(), r"loss: it cannot be read \(ZeroDivisionError: "),
    ],
)
def test_a_report_that_makes_no_run_is_a_failed_one_that_says_why(
    reports: Any, told: str, tmp_path: Path
) -> None:
    def loss(run_dir: Path, output: str) -> Any:
        if isinstance(reports, Exception):
            raise reports
        return reports

    run = ran(tmp_path, "true", loss)
    assert run.state == "failed"
    assert re.match(told, run.reason)


def test_a_loss_that_is_not_finite_has_diverged_whatever_else_is_reported(tmp_path: Path) -> None:
    run = ran(tmp_path, "true", lambda *_: {"loss": float("nan"), "tokens": float("nan")})
    assert run.state == "diverged"


def test_a_value_stays_in_its_word_whatever_it_contains(tmp_path: Path) -> None:
    """Also in a path with spaces, and quoted where a shell was asked for."""
    folder = tmp_path / "größe 1; touch x"
    folder.mkdir()
    size = {"name": "a b; touch injected $(touch injected) 'ü'"}
    for shell in (False, True):
        command = "printf '%s|' {name} --lr={lr:.1e} {run_dir}"
        run = ran(folder, command, "re:(1)", size=size, shell=shell, cwd=folder)
        printed = (folder / "runs" / run.experiment.id / OUTPUT).read_text().rstrip("|").split("|")
        assert printed[-3:-1] == [size["name"], "--lr=1.0e-02"]
        assert printed[-1] == str(folder / "runs" / run.experiment.id / WORK)
    assert not list(tmp_path.rglob("injected"))
    assert not list(tmp_path.rglob("x"))


def test_all_that_is_planned_is_in_the_environment(tmp_path: Path) -> None:
    command = script(tmp_path, "echo $FLOPS_FIT_LR $FLOPS_FIT_SEED $OWN $0")
    ran(tmp_path, command, env={"OWN": "{steps}"})
    printed = (tmp_path / "runs" / make_experiment().id / OUTPUT).read_text()
    assert printed.startswith("0.01 1 50 ")


@pytest.mark.parametrize(
    ("command", "options", "told"),
    [
        ("train --dim {sise}", {}, "got {sise}. Did you mean 'size'?"),
        ("train {}", {}, "expected placeholders {size}"),
        ("train {size.real}", {}, "got {size.real}"),
        ("train {lr:q}", {}, "Unknown format code"),
        ("train {size", {}, "expected '}'"),
        ("train 'a", {}, "No closing quotation"),
        ("  ", {}, "got nothing"),
        ("train", {"loss": "re:("}, "expected a regular expression"),
        ("train", {"loss": 3}, "loss: Expected loss="),
        ("train", {"timeout": 0}, "timeout"),
        ("train", {"exit_codes": {3: "broken"}}, "exit_codes"),
    ],
)
def test_a_wrong_command_is_refused_before_anything_runs(
    command: str, options: dict[str, Any], told: str
) -> None:
    with pytest.raises((InputError, InputTypeError)) as error:
        flops_fit.CommandTask(command, **options).check([make_experiment()])
    assert told in str(error.value)


def test_placeholders_are_what_is_planned() -> None:
    values = planned_values(make_experiment(units_per_sample=16.0, size={"depth": 2, "dim": 8}))
    assert (values["size"], values["depth"], values["batch"]) == ("2-8", 2, 8)
    assert (values["batch_units"], values["warmup_steps"], values["samples"]) == (128, 5, 400)


def test_a_run_that_takes_too_long_ends_with_all_its_processes(tmp_path: Path) -> None:
    """One that ignores SIGTERM is killed."""
    text = "trap '' TERM; sleep 61 & echo $! > $FLOPS_FIT_RUN_DIR/child; wait; wait; sleep 61"
    began = time.monotonic()
    run = ran(tmp_path, script(tmp_path, text), timeout=0.3, grace=0.2)
    assert time.monotonic() - began < 20
    assert (run.state, run.reason) == ("failed", "it took longer than 0.3 s and was stopped")
    child = int((tmp_path / "runs" / run.experiment.id / WORK / "child").read_text())
    until = time.monotonic() + 10
    while _alive(child) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _alive(child)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def plan_of(sizes: list[int], **changes: Any) -> flops_fit.SweepPlan:
    known = flops_fit.ModelSizes({size: 1e5 * size for size in sizes})
    return flops_fit.plan_sweep(known, compute_budgets=[1e10], sizes=sizes, batch_size=4, **changes)


HALF = (
    'cd "$FLOPS_FIT_RUN_DIR"; echo $$ >> pids; [ -e half ] && exec echo loss: 1; '
    "sleep 61 & echo $! > child; touch half; wait"
)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_sweep_that_is_killed_takes_its_command_along_and_goes_on(
    number: int, tmp_path: Path
) -> None:
    command = script(tmp_path, HALF)
    code = (
        "import sys, flops_fit\n"
        "plan = flops_fit.SweepPlan.from_json(sys.argv[3])\n"
        "task = flops_fit.CommandTask(sys.argv[1], 're:loss: (.*)')\n"
        "flops_fit.run_sweep(plan, task, output_dir=sys.argv[2], progress=False)\n"
    )
    out = tmp_path / "out"
    arguments = [command, str(out), plan_of([2]).to_json()]
    driver = subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not (pids := list(out.rglob("half"))) and time.monotonic() < until:
        time.sleep(0.05)
    driver.send_signal(number)
    driver.wait(60)
    processes = [int(pids[0].with_name(name).read_text()) for name in ("pids", "child")]
    while any(map(_alive, processes)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(_alive, processes))
    task = flops_fit.CommandTask(command, "re:loss: (.*)")
    for _ in range(2):  # a finished run is not run again
        (run,) = flops_fit.run_sweep(plan_of([2]), task, output_dir=out, progress=False)
        assert (run.state, run.loss, run.resumed) == ("completed", 1.0, 1)
    assert len(pids[0].with_name("pids").read_text().split()) == 2


def test_two_runs_that_fail_alike_stop_the_sweep(tmp_path: Path) -> None:
    task = flops_fit.CommandTask("no-such-program")
    with pytest.raises(SweepError, match="no-such-program"):
        flops_fit.run_sweep(plan_of([2, 3, 4]), task, output_dir=tmp_path / "o", progress=False)


def test_a_command_can_be_pickled_and_starts_where_it_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    task = pickle.loads(pickle.dumps(flops_fit.CommandTask("pwd", "re:(.*)")))
    monkeypatch.chdir("/")
    assert task.cwd == str(tmp_path)


def test_all_gpus_of_a_run_belong_to_its_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    pool = PoolExecutor(gpus=["3", "5"], gpus_per_run=2, threads=1)
    pool.start(flops_fit.CommandTask("true"), print)
    needs = pool._default(make_experiment(), 1)
    pool.close()
    assert needs == Resources(gpus=2, ranks=1)
    _see_gpu(Setting(1, needs.size, ("3", "5")), 0)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,5"


def test_a_plan_that_knows_its_command_is_that_of_this_command(tmp_path: Path) -> None:
    ids = [{e.id for e in plan_of([2, 3], mode=flops_fit.CommandTask(c)).experiments} for c in "ab"]
    assert not ids[0] & ids[1]
    with pytest.raises(InputError, match="Did you mean 'size'"):
        plan_of([2, 3], mode=flops_fit.CommandTask("a {sze}"))
    out = tmp_path / "o"
    task = flops_fit.CommandTask("echo loss: {size}", "re:loss: (.*)")
    runs = flops_fit.run_sweep(plan_of([2, 3]), task, output_dir=out, progress=False)
    assert [run.loss for run in runs] == [2.0, 3.0]
    assert flops_fit.store.examine(out).findings == ()


def test_what_decides_a_result_decides_the_ids_of_a_plan() -> None:
    """Patience, and where the command starts, do not."""
    task = flops_fit.CommandTask("train {lr}")
    for other in ({"loss": "result.json:train_loss"}, {"shell": True}, {"env": {"DATA": "c4"}}):
        assert flops_fit.CommandTask("train {lr}", **other).fingerprint() != task.fingerprint()
    slow = flops_fit.CommandTask("train {lr}", timeout=9, cwd="/")
    assert slow.fingerprint() == task.fingerprint()
    bound = [flops_fit.CommandTask("train {lr}", functools.partial(max, i)) for i in (1, 1)]
    assert bound[0].fingerprint() == bound[1].fingerprint()
