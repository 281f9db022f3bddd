"""``find_optimal`` takes what its stages take, says so, and hands every argument on."""

from __future__ import annotations

import dataclasses
import inspect
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flops_fit import (
    Adaptive,
    Mock,
    Tapered,
    TrainingConfig,
    find_optimal,
    plan_sweep,
    run_sweep,
)
from flops_fit.api import find, plan, run
from flops_fit.tune import Tune
from tests.conftest import MLP, Blobs, cross_entropy

Parameters = dict[str, inspect.Parameter]

FIND: Parameters = dict(inspect.signature(find_optimal).parameters)
PLAN: Parameters = dict(inspect.signature(plan_sweep).parameters)
RUN: Parameters = dict(inspect.signature(run_sweep).parameters)
OPTIONS = ("executor", "output_dir", "resume", "progress")
CONTRACT = [
    *("model_cls", "model_size_param", "model_kwargs", "dataset", "loss_fn", "compute_budgets"),
    *("train", "mode", "output_dir", "resume"),
    *("eval_dataset", "batch_size", "seed", "device", "executor", "flops", "sizes", "count_fn"),
    *("step_fn", "example_batch", "hparams", "design", "progress"),
]


class Stop(Exception):  # noqa: N818 - no error
    """The stage was called; nothing more is asked of it."""


class Pilot:
    """A plan that is only handed around."""

    task = object()
    budgets = (1e6, 2e6)
    diagnostics = ()


PILOT: Any = Pilot()


class Stage:
    """Stands where a stage is called, and keeps what it was called with."""

    def __init__(self, stage: Any) -> None:
        self.signature = inspect.signature(stage)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.got = self.signature.bind(*args, **kwargs).arguments
        raise Stop


def test_the_signature_is_the_contract_and_three_more() -> None:
    assert list(FIND) == [*CONTRACT, "training", "tune", "metrics"]
    kinds = [FIND[name].kind for name in FIND]
    assert kinds[:10] == [inspect.Parameter.POSITIONAL_OR_KEYWORD] * 10
    assert set(kinds[10:]) == {inspect.Parameter.KEYWORD_ONLY}


def test_each_argument_of_find_optimal_belongs_to_a_stage() -> None:
    assert set(PLAN) - set(FIND) == {"requires_data"}
    assert set(RUN) - set(FIND) == {"plan", "task"}
    assert set(FIND) - set(PLAN) - set(RUN) == {"train"}


@pytest.mark.parametrize("stage", [PLAN, RUN], ids=["plan_sweep", "run_sweep"])
def test_shared_arguments_have_one_default_and_one_type(stage: Parameters) -> None:
    for name in FIND.keys() & stage.keys():
        shared = (FIND[name].default, FIND[name].annotation)
        assert shared == (stage[name].default, stage[name].annotation), name


def arguments() -> dict[str, Any]:
    """Another value than its default for every argument of planning."""
    return {
        "model_cls": MLP,
        "model_size_param": "width",
        "model_kwargs": {"x": 1},
        "dataset": Blobs(8),
        "loss_fn": cross_entropy,
        "compute_budgets": [1e6],
        "mode": Mock(noise=0.5),
        "eval_dataset": Blobs(4),
        "batch_size": 3,
        "seed": 7,
        "device": "cpu",
        "flops": "6nd",
        "sizes": [4, 8],
        "count_fn": len,
        "step_fn": print,
        "example_batch": (1, 2),
        "hparams": {"lr": 0.1},
        "training": TrainingConfig(microbatch=2),
        "design": Tapered(width=3),
        "tune": Tune("none", seeds=0),
        "metrics": {},
    }


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize(
    ("call", "name", "module"),
    [(find_optimal, "train", find), (plan_sweep, "requires_data", plan)],
    ids=["find_optimal", "plan_sweep"],
)
def test_every_argument_of_planning_is_handed_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: Any, name: str, module: Any, wanted: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    given = arguments()
    assert set(given) == set(PLAN) - {"requires_data"}
    stage = Stage(plan.make_plan)
    monkeypatch.setattr(module, "make_plan", stage)
    with pytest.raises(Stop):
        call(**given, **{name: wanted})
    sweep = stage.got["sweep"]
    got = {f.name: getattr(sweep, f.name) for f in dataclasses.fields(sweep)}
    assert got == {**given, "requires_data": wanted}


def test_every_argument_of_running_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find, "make_plan", lambda sweep: PILOT)
    monkeypatch.setattr(find, "check_fittable", lambda plan: None)
    given: dict[str, Any] = {name: object() for name in OPTIONS} | {"output_dir": "of its own"}
    expected = {"plan": PILOT, "task": PILOT.task, "options": run.RunOptions(**given)}
    for module, call in (
        (find, partial(find_optimal, MLP, **given)),
        (run, partial(run_sweep, PILOT, **given)),
    ):
        stage = Stage(run.run_plan)
        monkeypatch.setattr(module, "run_plan", stage)
        with pytest.raises(Stop):
            call()
        assert stage.got == expected


def test_every_argument_of_an_adaptive_sweep_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(find.find_adaptively)
    monkeypatch.setattr(find, "make_plan", lambda sweep: PILOT)
    monkeypatch.setattr(find, "find_adaptively", stage)
    given: dict[str, Any] = {name: object() for name in OPTIONS} | {"output_dir": "of its own"}
    design = Adaptive(target_compute=1e12, half_width=0.2, max_flops=1e9)
    with pytest.raises(Stop):
        find_optimal(MLP, **given, sizes=[4, 8], design=design)
    assert stage.got == {
        "plan": PILOT,
        "design": design,
        "sizes": [4, 8],
        "options": run.RunOptions(**given),
    }


@pytest.mark.parametrize("call", [find_optimal, plan_sweep])
@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("precision", r"training=TrainingConfig\(precision=...\)"),
        ("branch", r"training=TrainingConfig\(branch=...\)"),
        ("prior", r"design=Grid\(prior=...\)"),
        ("repeats", r"design=Grid\(repeats=...\)"),
        ("max_flops", r"design=Adaptive\(max_flops=...\)"),
        ("mock_law", r"mode=Mock\(law=...\)"),
    ],
)
def test_a_setting_of_an_object_says_where_it_is(call: Any, name: str, place: str) -> None:
    with pytest.raises(TypeError, match=f"{name!r}; it has moved: give {place}"):
        call(MLP, **{name: 1})


def test_a_misspelt_argument_is_answered_with_the_nearest() -> None:
    call: Any = plan_sweep
    with pytest.raises(TypeError, match="did you mean 'dataset'"):
        call(datset=1)


def test_run_options_are_the_arguments_of_running() -> None:
    assert tuple(f.name for f in dataclasses.fields(run.RunOptions)) == OPTIONS
    assert set(RUN) == {"plan", "task", *OPTIONS}


def test_every_argument_is_explained() -> None:
    for function, parameters in ((find_optimal, FIND), (run_sweep, RUN)):
        text = inspect.getdoc(function)
        listed = text.split("Parameters\n----------\n")[1].split("\n\n")[0]
        names = [n for line in re.findall(r"^\S.*$", listed, re.M) for n in line.split(", ")]
        assert sorted(names) == sorted(parameters), function.__name__
