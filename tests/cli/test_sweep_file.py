"""A sweep from TOML and flags is the call of find_optimal that it says."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

import flops_fit
from flops_fit import Mock, Mup, Rectangular, Tapered, TrainingConfig
from flops_fit.cli.references import is_reference, load
from flops_fit.cli.sweep_file import read_sweep
from flops_fit.errors import InputError, MissingExtraError
from flops_fit.execute import PoolExecutor
from flops_fit.laws import Hoffmann
from tests.cli._calls import called

pytestmark = pytest.mark.usefixtures("fresh_imports")

CODE = """
from dataclasses import dataclass
import torch

class Tiny(torch.nn.Linear):
    def __init__(self, width, bias=True):
        super().__init__(width, width, bias)

@dataclass
class Points:
    n: int = 8
    scale: float = 1.0

ready = Points(3)
made = lambda: Points(5)

def loss(output, targets):
    return (output - targets).square().mean()
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "thing.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arguments(
    here: Path, text: str, flags: dict[str, Any] | None = None, *settings: str
) -> dict[str, Any]:
    (here / "sweep.toml").write_text('model_cls = "thing.py:Tiny"\n' + text)
    return read_sweep(None, flags or {}, settings, trust="builtins:" in text).arguments()


def test_values_go_to_find_optimal_under_their_own_names(here: Path) -> None:
    found = arguments(
        here,
        "compute_budgets = [1e9, 3_000_000_000]\nseed = 3\nbatch_size = 16\n"
        "loss_fn = 'thing:loss'\n[mode]\nkind = 'mock'\nlaw = 'hoffmann2022'\n"
        "[design]\nkind = 'tapered'\nprior = 'besiroglu2024'\n"
        "[training]\ncheckpoint_seconds = 'none'\nparametrization = { ref = 'flops_fit:Mup' }\n"
        "[model_kwargs]\nbias = false\n[hparams]\nlr = 0.01\nbatch_units = 64\n"
        "[sizes]\n'1e9' = [8, 16]\n3e9 = [16]\n",
    )
    thing = sys.modules["thing"]
    assert found == {
        "model_cls": thing.Tiny,
        "loss_fn": thing.loss,
        "compute_budgets": [1e9, 3e9],
        "seed": 3,
        "batch_size": 16,
        "design": Tapered("besiroglu2024"),
        "training": TrainingConfig(checkpoint_seconds=None, parametrization=Mup()),
        "mode": Mock(Hoffmann(1.69, 406.4, 410.7, 0.34, 0.28)),
        "model_kwargs": {"bias": False},
        "hparams": {"lr": 0.01, "batch_units": 64},
        "sizes": {1e9: [8, 16], 3e9: [16]},
        "output_dir": Path("outputs"),
    }


def test_every_argument_can_be_set_but_train(here: Path) -> None:
    names = set(inspect.signature(flops_fit.find_optimal).parameters) - {"train", "model_cls"}
    settings = [f"{name}=none" for name in sorted(names)]
    assert set(arguments(here, "", None, *settings)) == names | {"model_cls"}


def test_a_new_argument_needs_no_change_of_the_command(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_optimal(model_cls: Any = None, output_dir: str = "", *, moonlight: float = 0) -> None:
        """As if it had grown."""

    monkeypatch.setattr(flops_fit, "find_optimal", find_optimal, raising=False)
    assert arguments(here, "moonlight = 0.5")["moonlight"] == 0.5


def test_data_is_named_called_or_called_with_arguments(here: Path) -> None:
    for text, n, scale in (
        ('dataset = "thing.py:ready"', 3, 1.0),
        ('dataset = "thing.py:Points"', 8, 1.0),
        ('dataset = "thing:made"', 5, 1.0),
        ('[dataset]\nref = "thing.py:Points"\nargs = { n = 2, scale = 0.5 }', 2, 0.5),
        (
            '[dataset]\nref = "thing.py:Points"\n[dataset.args]\nn = { ref = "builtins:int" }',
            0,
            1.0,
        ),
    ):
        found = arguments(here, text)["dataset"]
        assert (found.n, found.scale) == (n, scale), text


def test_an_executor_is_a_name_or_a_table_with_its_options(here: Path) -> None:
    assert arguments(here, "executor = 'pool'")["executor"] == "pool"
    made = arguments(here, "[executor]\nkind = 'pool'\nworkers = 3\nthreads = 1")["executor"]
    assert isinstance(made, PoolExecutor)
    assert made.capacity == 3


def test_flags_override_settings_and_settings_the_file(here: Path) -> None:
    text = "seed = 1\ndesign = 'tapered'\nbatch_size = 4\nexecutor = 'ray'\n[hparams]\nlr = 0.1\nclip = 2.0"
    settings = ("seed=2", "design=grid", "hparams.lr=0.2", "executor=pool", "executor.workers=2")
    settings += ("design.width=4", "training.precision=bf16")
    found = arguments(here, text, {"seed": 3, "device": None, "design": "rectangular"}, *settings)
    assert found["seed"] == 3
    assert found["design"] == Rectangular(width=4)
    assert found["training"] == TrainingConfig(precision="bf16")
    assert found["batch_size"] == 4
    assert found["hparams"] == {"lr": 0.2, "clip": 2.0}
    assert found["executor"].capacity == 2
    assert "device" not in found


@pytest.mark.parametrize(
    ("text", "flags", "settings", "table"),
    [
        ("", {"mode": "mock"}, ["mode.noise=0.5"], {"kind": "mock", "noise": 0.5}),
        ("", {"executor": "pool"}, ["executor.workers=4"], {"kind": "pool", "workers": 4}),
        ("[executor]\nkind='pool'\nworkers=3", {"executor": "pool"}, [], {"kind": "pool", "workers": 3}),
        ("executor = 'ray'", {"executor": "pool"}, ["executor.workers=4"], {"kind": "pool", "workers": 4}),
        ("[design]\nkind='tapered'\nwidth=3", {"design": "grid"}, [], {"kind": "grid", "width": 3}),
        ("[executor]\nkind='slurm'\npartition='gpu'", {"executor": "pool"}, [], {"kind": "pool"}),
        ("tune = 'joint'", {}, ["tune.share=0.1"], {"kind": "joint", "share": 0.1}),
        ("[design]\nwidth=3", {}, ["design=grid", "design.width=4"], {"kind": "grid", "width": 4}),
    ],
)  # fmt: skip
def test_the_name_of_a_kind_keeps_its_settings(
    here: Path, text: str, flags: dict[str, Any], settings: list[str], table: dict[str, Any]
) -> None:
    """Those of another kind in the file are left out: the name asks for another."""
    (here / "sweep.toml").write_text('model_cls = "thing.py:Tiny"\n' + text)
    (key,) = {*flags, *(setting.split("=")[0].split(".")[0] for setting in settings)}
    assert read_sweep(None, flags, settings).values[key] == table


def test_a_setting_that_the_kind_of_a_flag_does_not_have_is_refused(here: Path) -> None:
    text = "[executor]\nkind = 'pool'\nworkers = 3"
    with pytest.raises(InputError, match="executor: ray has no option 'workers'"):
        arguments(here, text, {"executor": "ray"}, "executor.workers=4")


def test_a_command_of_a_file_needs_trust_where_a_flag_names_its_kind(here: Path) -> None:
    text = "[mode]\nkind = 'command'\ncommand = 'date'"
    with pytest.raises(InputError, match="mode: expected no command in sweep.toml"):
        arguments(here, text, {"mode": "command"})


def test_paths_of_a_file_are_beside_it_and_those_of_flags_are_here(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "sweep.toml").write_text('model_cls = "thing.py:Tiny"')
    away = here / "away"
    away.mkdir()
    monkeypatch.chdir(away)
    found = read_sweep(Path("..") / "sweep.toml", {}, trust=True).arguments()
    assert found["output_dir"] == Path("../outputs")
    assert found["model_cls"].__name__ == "Tiny"
    flags = {"output_dir": Path("mine")}
    found = read_sweep(Path("..") / "sweep.toml", flags, trust=True).arguments()
    assert found["output_dir"] == Path("mine")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("compute_budget = [1]", "sweep.toml: unknown key 'compute_budget'; did you mean 'compute_budgets'?"),
        ("zzz = 1", "unknown key 'zzz'; it takes ['model_cls', "),
        ("train = false", "unknown key 'train'; leave it out: flops-fit plan plans"),
        ("precision = 'bf16'", "it has moved into the table [training]: training.precision."),
        ("mock_noise = 0.1", "key 'mock_noise'; it has moved into the table [mode]: mode.noise."),
        ("[design]\nwidth = 3", "design.kind: expected one of ['grid', 'tapered', 'rectangular', "),
        ("[training]\nprecison = 'bf16'", "no option 'precison'; did you mean 'precision'?"),
        ("seed = ", "expected TOML"),
        ("seed = " + "[" * 9999, "expected TOML"),
        ("loss_fn = 'thing.py:los'", "loss_fn: thing.py has no 'los'. Did you mean 'loss'?"),
        ("loss_fn = 'no_such:los'", "loss_fn: no_such cannot be imported: ModuleNotFoundError"),
        ("loss_fn = 'no_such.py:los'", "does not exist"),
        ("dataset = { ref = 'thing.py:Points', n = 2 }", "Put arguments into [dataset.args]"),
        ("dataset = { ref = 'thing.py:Points', args = { m = 2 } }", "dataset: Points cannot be called so"),
        ("dataset = { ref = 'Points' }", "expected package.module:name or file.py:name; got 'Points'"),
        ("executor = { kind = 'pol' }", "executor.kind: expected one of ['inprocess', 'pool', 'ray', "),
        ("executor = { kind = 'pool', worker = 2 }", "no option 'worker'; did you mean 'workers'?"),
        ("sizes = { small = [1] }", "expected budgets as keys"),
        ("tune = { kind = 'joint', shares = 1 }", "no option 'shares'; did you mean 'share'?"),
        ("tune = { kind = 'join' }", "Did you mean 'joint'?"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_names_its_key(here: Path, text: str, words: str) -> None:
    with pytest.raises(InputError) as error:
        arguments(here, text)
    assert words in str(error.value)


def test_without_a_model_there_is_no_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    told = called(capsys, "run")
    assert told.code == 2
    assert "no sweep.toml is here. flops-fit init writes one" in told.err
    for flags, words in (
        (["--set", "seed"], "--set: expected KEY=VALUE"),
        (["--set", "width=3"], "--set: unknown key 'width'; it has moved into the table [design]"),
        (["--set", "sed=1"], "--set: unknown key 'sed'; did you mean 'seed'?"),
        (["--compute-budgets", "1e9;3e9"], "separated by commas"),
        (["other.toml"], "other.toml: expected a TOML file of a sweep"),
    ):
        told = called(capsys, "plan", *flags)
        assert told.code == 2
        assert words in told.err


def test_a_file_whose_name_is_taken_is_another_module(here: Path) -> None:
    (here / "json.py").write_text("special = 7")
    assert load("json.py:special", "x", here) == 7
    assert sys.modules["json"].__file__ != str(here / "json.py")


def test_addresses_are_no_references() -> None:
    for text in ("cuda:0", "10.0.0.1:6379", "auto", "C:", "a:b c"):
        assert not is_reference(text)
    for text in ("a:b", "a.b:C.d", "dir/my-file.py:make"):
        assert is_reference(text)


def test_planning_makes_no_executor(here: Path) -> None:
    """Slurm and Ray need be installed only where the sweep runs; their options are looked at."""
    (here / "sweep.toml").write_text(
        'model_cls = "thing.py:Tiny"\nexecutor = { kind = "pool", workers = 0 }'
    )
    sweep = read_sweep(None, {})
    assert sweep.arguments(planning=True)["executor"] == "inprocess"
    with pytest.raises(InputError, match="workers"):
        sweep.arguments()


def test_what_a_file_defines_travels_as_code(here: Path) -> None:
    """Another process can read it that knows neither the file nor its folder."""
    (here / "plain.py").write_text("class Far:\n    answer = 42\n")
    (here / "pickle").write_bytes(cloudpickle.dumps(load("plain.py:Far", "x", here)))
    code = f"import pickle; print(pickle.load(open({str(here / 'pickle')!r}, 'rb')).answer)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=here.parent, capture_output=True, text=True
    )
    assert done.stdout == "42\n", done.stderr


INSIDE = """
import os
from os import system
from pathlib import Path
from flops_fit.examples import GPT

class Own:
    @classmethod
    def make(cls, text=""):
        return cls()
"""


@pytest.mark.parametrize(
    "reference",
    [
        "os:system", "builtins:eval", "runpy:run_path", "__main__:x", "torch:load", "torch.hub:load",
        "numpy:load", "transformers:pipeline", "timm:create_model", "antigravity:fly", "evil.py:run",
        "link.py:run", "flops_fit:CommandTask",
        "flops_fit.cli:main", "flops_fit.cli.references:load", "flops_fit.errors:math.sqrt",
        "flops_fit:laws.law.np.load", "torch.nn:functional.torch.load", "inside.py:os.system",
        "inside.py:os.path.join", "inside:system", "inside:Path.home", "inside:Own.__subclasses__",
    ],
)  # fmt: skip
def test_a_file_that_is_not_trusted_names_code_of_the_project_alone(
    here: Path, monkeypatch: pytest.MonkeyPatch, reference: str
) -> None:
    """Nothing of what it names elsewhere is imported."""
    (here / "evil.py").write_text("raise SystemExit")
    project = here / "project"
    project.mkdir()
    (project / "inside.py").write_text(INSIDE)
    (project / "link.py").symlink_to("../evil.py")
    installed = project / ".venv" / "site-packages"
    installed.mkdir(parents=True)
    (installed / "timm.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(installed)
    monkeypatch.chdir(project)
    folder = here if reference == "evil.py:run" else project
    (folder / "sweep.toml").write_text(f"dataset = {{ ref = '{reference}' }}\nmodel_cls = 'm'")
    path = folder / "sweep.toml"
    with pytest.raises(InputError) as error:
        read_sweep(path, {}).arguments()
    assert f"since {path} is not trusted; got '{reference}', which is elsewhere." in str(
        error.value
    )
    assert "then add --trust" in str(error.value)
    assert "antigravity" not in sys.modules


def test_code_of_the_project_and_public_names_need_no_trust(here: Path) -> None:
    (here / "inside.py").write_text(INSIDE)
    (here / "pack" / "sub").mkdir(parents=True)
    (here / "pack" / "sub" / "deep.py").write_text("def make(): return 5")
    for text, answer in (
        ("loss_fn = 'torch.nn.functional:cross_entropy'", "cross_entropy"),
        ("loss_fn = 'inside.py:GPT'", "GPT"),
        ("loss_fn = 'inside:Own.make'", "make"),
        ("loss_fn = 'flops_fit.examples:gpt_loss_fn'", "gpt_loss_fn"),
        ("loss_fn = 'pack.sub.deep:make'", "make"),
    ):
        assert arguments(here, text)["loss_fn"].__name__ == answer


def test_options_that_may_run_commands_need_trust(here: Path) -> None:
    slurm = "[executor]\nkind = 'slurm'\nfolder = 'jobs'\n[executor.options]\naccount = 'x'\n"
    for text, name in (
        (slurm + "setup = ['date']", "setup"),
        (slurm + "additional_parameters = { wrap = 'date' }", "additional_parameters"),
        ("[executor]\nkind = 'ray'\naddress = '10.0.0.1:6379'", "address"),
        ("[executor]\nkind = 'ray'\noptions = { runtime_env = { pip = ['x'] } }", "runtime_env"),
    ):
        with pytest.raises(InputError, match=f"sweep.toml is not trusted; got '{name}'"):
            arguments(here, text)
        assert read_sweep(None, {}, trust=True).arguments()["executor"]
    assert arguments(here, slurm)["executor"]


def test_a_reference_in_a_flag_is_the_users_own(here: Path) -> None:
    (here / "sweep.toml").write_text("model_cls = 'os:system'")
    assert (
        read_sweep(None, {"model_cls": "os:getcwd"}).arguments()["model_cls"].__name__ == "getcwd"
    )
    assert read_sweep(None, {}, trust=True).arguments()["model_cls"].__name__ == "system"


def test_a_model_that_needs_torch_where_there_is_none_says_what_to_install(here: Path) -> None:
    (here / "needs.py").write_text("raise ModuleNotFoundError(name='torch')")
    with pytest.raises(MissingExtraError, match=r'pip install "flops-fit\[train\]"'):
        arguments(here, "loss_fn = 'needs.py:loss'")
