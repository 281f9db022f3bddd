"""Plans as files of other tools: each is read by its tool's own parser where there is one, and does run."""

from __future__ import annotations

import ast
import csv
import json
import os
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import flops_fit
from flops_fit.errors import InputError, InputTypeError, OutputError
from flops_fit.plan.export import TARGETS

OPTIONS: dict[str, dict[str, Any]] = {
    "bash": {},
    "slurm-array": {"partition": "gpu", "gpus": "2"},
    "kubernetes": {"image": "me/trainer:1", "claim": "sweep", "parallel": "4"},
    "skypilot": {"accelerators": "H100:8", "bucket": "s3://sweep", "setup": 'echo "a: b"'},
    "ray-job": {"gpus": 0.5},
    "csv": {},
}
TRAIN = 'printf "%s|" "$@"; echo; [ "$1" != 3 ] && echo "loss: $1.5"'
AWKWARD = "a b; touch injected $(touch injected)\n  \n 'ü' \" @cases@ {"


@pytest.fixture
def plan() -> flops_fit.SweepPlan:
    rows = [{"size": i, "note": AWKWARD, "params": 1e5 * i} for i in (2, 3, 4)]
    sizes = [{"size": row["size"], "note": AWKWARD} for row in rows]
    return flops_fit.plan_sweep(
        flops_fit.ModelSizes(rows), compute_budgets=[1e10], sizes=sizes, batch_size=4
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train.sh").write_text(TRAIN)
    return tmp_path / "größe 1"


def task_in(folder: Path, shell: bool = False) -> flops_fit.CommandTask:
    command = f"sh '{folder.parent}/train.sh' {{params:.0f}} {{note}} --out={{run_dir}}/x '{{{{'"
    return flops_fit.CommandTask(command, "re:loss: (.*)", shell=shell)


def script_of(target: str, path: Path) -> str:
    """What the tool would run with bash."""
    text = path.read_text()
    if target == "kubernetes":
        return str(next(iter(yaml.safe_load_all(text)))["data"]["run.sh"])
    return str(yaml.safe_load(text)["run"]) if target == "skypilot" else text


@pytest.mark.parametrize("shell", [False, True])
@pytest.mark.parametrize("target", ["bash", "slurm-array", "kubernetes", "skypilot"])
def test_a_script_makes_each_run_once_and_its_results_are_collected(
    target: str, shell: bool, plan: flops_fit.SweepPlan, folder: Path
) -> None:
    """Whatever the values contain; a run that failed is made again."""
    (folder.parent / "train.sh").write_text(TRAIN.replace("= 3", "= 300000"))
    mount = {"mount": str(folder)} if target in ("kubernetes", "skypilot") else {}
    path = plan.export(target, folder, task_in(folder, shell), **OPTIONS[target], **mount)
    script = folder.parent / "script" if mount else path
    script.write_text(script_of(target, path))
    assert subprocess.run(["bash", "-n", script]).returncode == 0

    def call(index: str) -> int:
        names = {"slurm-array": "SLURM_ARRAY_TASK_ID", "kubernetes": "JOB_COMPLETION_INDEX"}
        given = {names.get(target, "RUN"): index}
        words = [index] if target == "bash" else []
        done = subprocess.run(
            ["bash", script, *words], env={**os.environ, **given}, capture_output=True, cwd=folder
        )
        assert done.stderr == b"" or index == "9"
        return done.returncode

    assert [call("0"), call("1"), call("9")] == [0, 1, 2]
    runs = flops_fit.collect(folder)
    assert [(r.state, r.loss) for r in runs] == [("completed", 200000.5), ("failed", None)]
    assert runs[1].reason.startswith("the command exited with 1: ")
    printed = (folder / "runs" / runs[0].experiment.id / "output.txt").read_text().split("|")
    out = f"--out={folder / 'runs' / runs[0].experiment.id / 'work'}/x"
    assert printed[:4] == ["200000", AWKWARD, out, "{"]
    assert not list(folder.parent.rglob("injected"))
    (folder.parent / "train.sh").write_text(TRAIN)
    assert call("all") == 0
    runs = flops_fit.collect(folder)
    assert [r.loss for r in runs] == [200000.5, 300000.5, 400000.5]
    counted = [(folder / "runs" / r.experiment.id / "output.txt").read_text() for r in runs]
    assert [text.count("--out=") for text in counted] == [1, 2, 1], "made as often"
    with (folder / "runs.csv").open(newline="") as table:
        assert len(list(csv.DictReader(table))) == 3


def test_a_folder_of_bash_may_move(plan: flops_fit.SweepPlan, folder: Path) -> None:
    plan.export("bash", folder, task_in(folder))
    moved = shutil.move(folder, folder.parent / "moved")
    assert subprocess.run(["bash", f"{moved}/run.sh", "2"]).returncode == 0
    assert [r.loss for r in flops_fit.collect(moved)] == [400000.5]


def test_a_sweep_makes_what_an_export_has_not(plan: flops_fit.SweepPlan, folder: Path) -> None:
    path = plan.export("bash", folder, task_in(folder))
    subprocess.run(["bash", path, "0"], check=True)
    flops_fit.collect(folder)
    runs = flops_fit.run_sweep(plan, task_in(folder), output_dir=folder, progress=False)
    assert [run.loss for run in runs] == [200000.5, 300000.5, 400000.5]
    assert [(folder / "runs" / r.experiment.id / "exit_code").exists() for r in runs] == [
        True,
        False,
        False,
    ]
    assert flops_fit.store.examine(folder).sound


def test_a_job_of_kubernetes_is_as_its_schema_says(
    plan: flops_fit.SweepPlan, tmp_path: Path
) -> None:
    path = plan.export("kubernetes", tmp_path / "k", "train {size}", **OPTIONS["kubernetes"])
    config, job = yaml.safe_load_all(path.read_text())
    spec = job["spec"]
    assert (spec["completions"], spec["parallelism"], spec["completionMode"]) == (3, 4, "Indexed")
    (container,) = spec["template"]["spec"]["containers"]
    assert container["image"] == "me/trainer:1"
    schema = pytest.importorskip("kubernetes_validate")
    for resource in (config, job):
        schema.validate(resource, schema.latest_version(), strict=True)


def test_configurations_of_hydra_compose(plan: flops_fit.SweepPlan, tmp_path: Path) -> None:
    overrides = "model.dim={params} ++optim.lr={lr:.2e} run={run_id} name='{note}' out={run_dir}"
    conf = plan.export("hydra", tmp_path / "h", overrides)
    own = json.loads((conf / "flops_fit" / "run1.yaml").read_text().partition("\n")[2])
    e = plan.experiments[1]
    assert (own["model"]["dim"], own["run"], own["name"]) == (300_000, e.id, AWKWARD)
    assert own["optim"]["lr"] == pytest.approx(e.hparams.lr, rel=0.01)
    hydra = pytest.importorskip("hydra")
    (tmp_path / "config").mkdir()
    base = {"model": {"dim": 1, "depth": 2}, "optim": {}, "run": "", "name": "", "out": ""}
    (tmp_path / "config" / "train.yaml").write_text(
        f"hydra: {{searchpath: ['file://{conf}']}}\n" + yaml.safe_dump(base)
    )
    with hydra.initialize_config_dir(str(tmp_path / "config"), version_base=None):
        composed = hydra.compose("train", ["+flops_fit=run1"])
    assert (composed.model.dim, composed.model.depth, composed.run) == (300_000, 2, e.id)


def test_a_job_of_skypilot_and_one_of_ray_name_what_was_asked_for(
    plan: flops_fit.SweepPlan, tmp_path: Path
) -> None:
    path = plan.export("skypilot", tmp_path / "s", "train {size}", **OPTIONS["skypilot"])
    job = yaml.safe_load(path.read_text())
    assert job["resources"] == {"accelerators": "H100:8"}
    assert job["file_mounts"] == {"/sweep": {"source": "s3://sweep", "mode": "MOUNT"}}
    assert job["setup"] == 'echo "a: b"'
    path = plan.export("ray-job", tmp_path / "r", "train {size}", gpus=2)
    ast.parse(path.read_text())
    assert "num_cpus=1, num_gpus=2" in path.read_text()
    assert (tmp_path / "r" / "run.sh").exists()


def test_a_table_has_the_commands(plan: flops_fit.SweepPlan, tmp_path: Path) -> None:
    path = plan.export("csv", tmp_path / "t", "train {params} {run_dir}")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["id"] for row in rows] == [e.id for e in plan.experiments]
    assert rows[0]["command"] == 'train 200000 "$FLOPS_FIT_RUN_DIR"'


def test_what_cannot_be_exported_is_refused(plan: flops_fit.SweepPlan, tmp_path: Path) -> None:
    (tmp_path / "own").write_text("mine")
    for target, command, options, error, told in (
        ("k8s", "train", {}, InputError, "Did you mean|expected one of"),
        ("slurm-array", "train", {}, InputError, "expected partition= too"),
        (
            "slurm-array",
            "train",
            {"partition": "p", "gpus": "two"},
            InputTypeError,
            "gpus.*number.*'two'",
        ),
        ("ray-job", "train", {"cpus": -1}, InputError, "cpus.*at least 0.*-1"),
        ("bash", "train", {"partition": "x"}, InputError, "unknown option 'partition'"),
        ("bash", "train {siz}", {}, InputError, "Did you mean 'size'"),
        ("bash", None, {}, InputError, "expected a text or a CommandTask"),
        ("hydra", "lr", {}, InputError, "expected key="),
        ("bash", "  ", {}, (InputError, InputTypeError), "got nothing"),
    ):
        with pytest.raises(error, match=told):
            plan.export(target, tmp_path / "new", command, **options)
    with pytest.raises(OutputError, match="holds other files"):
        plan.export("bash", tmp_path, "train")
    with pytest.raises(InputError, match=r"sweep\.json"):
        flops_fit.collect(tmp_path)


PRINTED = {
    "nanochat": ("Step 00010 | Validation bpb: 0.812345", 0.812345),
    "torchtitan": ("\033[33mvalidate step: 10  \033[32mloss:  2.5000  \033[36mmemory: 1.0GiB", 2.5),
}


@pytest.mark.parametrize("trainer", PRINTED)
def test_a_trainer_is_told_the_plan_in_its_own_flags(
    trainer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its launcher is a stand-in, which prints its words and what the trainer prints at its end."""
    line, loss = PRINTED[trainer]
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "torchrun").write_text(f"#!/bin/sh\necho \"$@\"\nprintf '{line}\\n'\n")
    (tmp_path / "bin" / "torchrun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    sizes = flops_fit.ModelSizes({10: 3e8, 12: 5e8}, units_per_sample=2048)
    plan = flops_fit.plan_sweep(sizes, compute_budgets=[1e18], sizes=[10, 12], batch_size=256)
    path = plan.export(trainer, tmp_path / "sweep", gpus=2, more="--flag=1")
    assert subprocess.run(["bash", path]).returncode == 0
    runs = flops_fit.collect(tmp_path / "sweep")
    assert [(run.state, run.loss) for run in runs] == [("completed", loss)] * 2
    for e in plan.experiments:
        told = (path.parent / "runs" / e.id / "output.txt").read_text().split()
        given = {
            "nanochat": [f"--depth={e.size}", f"--num-iterations={e.steps}", "--max-seq-len=2048"],
            "torchtitan": [f"--config=llama3_{e.size}", f"--training.steps={e.steps}"],
        }
        assert {*given[trainer], "--flag=1", "--nproc_per_node=2"} <= set(told)
    with pytest.raises(InputError, match="has its own"):
        plan.export(trainer, tmp_path / "other", "train {size}")


def test_every_target_is_one_of_the_tests() -> None:
    assert set(TARGETS) == {*OPTIONS, *PRINTED, "hydra"}


def test_results_without_an_exit_code_count_where_a_file_is_written_at_once(
    plan: flops_fit.SweepPlan, tmp_path: Path
) -> None:
    """As of a tool that starts commands by itself. What grows may be that of a run under way."""
    plan.export("hydra", tmp_path / "h", "dim={size}")
    texts = {"result.json": '{"eval_loss": 2.5}', "metrics.jsonl": '{"loss": 3}', "x": ""}
    for e, (name, text) in zip(plan.experiments, texts.items(), strict=True):
        work = tmp_path / "h" / "runs" / e.id / "work"
        work.mkdir(parents=True)
        (work / name).write_text(text)
    (work.parent / "exit_code").write_text("1 torn")
    (run,) = flops_fit.collect(tmp_path / "h")
    assert (run.state, run.loss) == ("completed", 2.5)
    assert flops_fit.collect(tmp_path / "h", "re:(.*)") == [run]


def test_a_folder_of_someone_else_reads_nothing_outside_of_its_runs(
    plan: flops_fit.SweepPlan, tmp_path: Path
) -> None:
    plan.export("bash", tmp_path / "b", "train {size}")
    for loss in ("/etc/passwd:root", "../../../secret.json:key"):
        (tmp_path / "b" / "command.json").write_text(json.dumps({"loss": loss}))
        with pytest.raises(InputError, match="in the folders of runs"):
            flops_fit.collect(tmp_path / "b")


def test_the_best_run_is_written_as_it_would_be_planned(tmp_path: Path) -> None:
    """As JSON, TOML, YAML and overrides, with the same values."""
    law = flops_fit.reference.law("besiroglu2024")
    found = flops_fit.find_optimal(
        flops_fit.ModelSizes(lambda size: 12 * size**2, units_per_sample=64),
        compute_budgets=[1e15, 3e15, 1e16, 3e16],
        mode=flops_fit.Mock(law, 0.0),
        output_dir=tmp_path / "o",
        progress=False,
    )
    assert isinstance(found, flops_fit.Result)
    texts = {
        end: found.export(tmp_path / f"best.{end}", 1e17).read_text()
        for end in ("json", "toml", "yaml", "txt")
    }
    best = json.loads(texts["json"])
    assert best["params"] == pytest.approx(found.predict(1e17).optimal_params, rel=0.01)
    assert best["tokens"] == 64 * best["batch"] * best["steps"]
    assert best["params"] * best["tokens"] * 6 == pytest.approx(1e17, rel=0.01)
    assert best["lr"] > 0
    assert tomllib.loads(texts["toml"]) == best
    assert yaml.safe_load(texts["yaml"]) == best
    pairs = dict(line.split("=", 1) for line in texts["txt"].splitlines())
    assert {name: json.loads(text) for name, text in pairs.items()} == best
    with pytest.raises(InputError, match="path"):
        found.export(tmp_path / "best.ini", 1e17)


def test_a_command_is_a_text() -> None:
    with pytest.raises(InputTypeError, match="command: expected a text; got int"):
        flops_fit.CommandTask(5)  # type: ignore[arg-type]
