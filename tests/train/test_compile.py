"""Compiling changes how fast a run is; what it learns, saves and reports stays."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from flops_fit import plan_sweep
from flops_fit.errors import InputError
from flops_fit.model import ModelSpec
from flops_fit.plan import Speed, StepTimes
from flops_fit.train import Trainer
from flops_fit.train.checkpoint import Checkpoints
from flops_fit.train.config import TrainingConfig, use_compile
from tests.conftest import MLP, Blobs, cross_entropy, make_experiment, with_changes
from tests.train.test_resume import every_reading
from tests.train.test_trainer import trainer

COMPILED = ("compiled by torch.compile",)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The tracer is torch's own; what it traced runs as it is, which spares a C++ compiler."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    yield
    torch.compiler.reset()


class Normed(nn.Module):
    """Dropout draws and BatchNorm counts: what a pass that fails half-way would leave changed."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(16, width), nn.BatchNorm1d(width), nn.Dropout(0.2), nn.Linear(width, 4)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layers(x)
        return out


def graphs() -> int:
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def test_a_compiled_run_has_the_loss_of_the_other(tmp_path: Path) -> None:
    """Its checkpoints hold the model's own names, and a run that is not compiled goes on from them."""

    def fall(progress: Any) -> None:
        if progress.step == 30:
            raise SystemExit(1)

    plain = trainer()(make_experiment())
    made = with_changes(trainer(), compile=True, folder=tmp_path, checkpoint_seconds=0.0)
    with every_reading(), pytest.raises(SystemExit):
        made(make_experiment(), fall)
    folder = tmp_path / make_experiment().id / "checkpoint"
    found = Checkpoints(folder, make_experiment().id).newest()
    assert found is not None
    assert sorted(found[1]["model"]) == ["down.weight", "up.weight"]
    for compile in (True, False):
        run = with_changes(made, compile=compile)(make_experiment())
        assert (run.state, run.resumed, run.notes) == ("completed", 1 + (not compile), COMPILED)
        assert run.loss == pytest.approx(plain.loss, rel=1e-5)


def test_shapes_compile_two_graphs_and_not_one_each() -> None:
    """Microbatches of 7, 7 and 2, then a part of every length: the dimension becomes a symbol."""
    before = graphs()
    run = with_changes(trainer(), compile=True, microbatch=7)(
        make_experiment(batch_size=16, tokens=800)
    )
    assert run.notes == COMPILED
    assert graphs() - before <= 3
    before = graphs()
    lengths = iter(range(2, 1000))
    made = with_changes(trainer(), compile=True)
    whole = list(made.data.batches(64, 50, 1))
    with pytest.MonkeyPatch.context() as patch:
        short = [(x[: next(lengths)], y) for x, y in whole]
        cut = [(x, y[: len(x)]) for x, y in short]
        patch.setattr(type(made.data), "batches", lambda *a, **k: (b for b in cut))
        assert made(make_experiment(tokens=1325)).notes == COMPILED
    assert graphs() - before <= 3


def test_sizes_of_a_sweep_do_not_use_up_what_torch_compiles() -> None:
    """One code, a dozen models: after eight torch would call it as it is, and warn."""
    before = graphs()
    for width in range(4, 28, 2):
        run = with_changes(trainer(), compile=True)(make_experiment(size=width, steps=3, tokens=24))
        assert run.notes == COMPILED
    assert graphs() - before == 12


def _no_compiler(graph: Any, inputs: Any) -> Any:
    raise FileNotFoundError("no C++ compiler")


def test_where_it_cannot_compile_a_run_is_as_if_it_had_not_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To the last bit, with the reason in its notes: nothing of the failed pass is left."""
    made = replace(trainer(), model=ModelSpec(Normed, "width"))
    plain = made(make_experiment())
    fails = functools.partial(torch.compile.func, backend=_no_compiler)
    monkeypatch.setattr(torch, "compile", fails)
    run = with_changes(made, compile=True)(make_experiment())
    assert run.loss == plain.loss
    assert len(run.notes) == 1
    assert run.notes[0].startswith("not compiled: BackendCompilerFailed")
    assert "no C++ compiler" in run.notes[0]

    def refuses(model: Any) -> Any:
        raise RuntimeError("Python 3.99 is not supported")

    monkeypatch.setattr(torch, "compile", refuses)
    run = with_changes(made, compile=True)(make_experiment())
    assert run.loss == plain.loss
    assert run.notes == ("not compiled: RuntimeError: Python 3.99 is not supported",)


def test_a_pass_that_fails_after_its_first_half_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def halfway(model: nn.Module) -> Any:
        class Broken(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                model(x)
                raise AssertionError("in the backward pass")

        return Broken()

    made = replace(trainer(), model=ModelSpec(Normed, "width"))
    plain = made(make_experiment())
    monkeypatch.setattr(torch, "compile", halfway)
    run = with_changes(made, compile=True)(make_experiment())
    assert run.loss == plain.loss
    assert run.notes == ("not compiled: AssertionError: in the backward pass",)


class _Fails(MLP):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("broken on purpose")


def test_the_users_own_error_is_told_as_it_is() -> None:
    run = with_changes(trainer(_Fails), compile=True)(make_experiment())
    assert (run.state, run.reason) == ("failed", "RuntimeError: broken on purpose")


def test_auto_compiles_long_runs_on_gpus_alone() -> None:
    experiment = make_experiment(steps=1000, tokens=8000)
    slow, fast = (
        Speed("cuda", (StepTimes(100.0, 0.0, rate),))
        for rate in (experiment.flops / 480, experiment.flops / 470)
    )
    assert use_compile("auto", "cuda:0", slow, experiment, 1000)
    assert use_compile("auto", "xpu", slow, experiment, 1000)
    assert not use_compile("auto", "cuda", fast, experiment, 1000)
    assert not use_compile("auto", "cuda", slow, experiment, 999)  # a part of it is done
    assert not use_compile("auto", "cuda", None, experiment, 1000)
    assert not use_compile("auto", "mps", slow, experiment, 1000)
    assert not use_compile("auto", "cpu", slow, experiment, 1000)
    few = make_experiment(steps=199, tokens=199 * 8)
    assert not use_compile("auto", "cuda", slow, few, 199)
    assert use_compile(True, "cpu", None, few, 1)


def test_a_compiled_sweep_is_another_one_and_auto_is_not() -> None:
    """What a machine's speed decides must not decide which runs are found again."""

    def plan(compile: Any) -> Any:
        arguments: dict[str, Any] = {"sizes": [8], "batch_size": 4}
        arguments["training"] = TrainingConfig(compile=compile)
        return plan_sweep(MLP, "width", None, Blobs(200), cross_entropy, [5e5], **arguments)

    ids = {name: plan(compile=name).experiments[0].id for name in ("auto", False, True)}
    assert ids["auto"] == ids[False] != ids[True]
    made = plan(compile=True).task
    assert isinstance(made, Trainer)
    assert made.config.compile is True
    assert made.speed is not None


@pytest.mark.parametrize("compile", ["yes", 1, None])
def test_what_is_no_choice_is_refused(compile: Any) -> None:
    with pytest.raises(InputError, match="compile: expected 'auto', True or False"):
        TrainingConfig(compile=compile)
