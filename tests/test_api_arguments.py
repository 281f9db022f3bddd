"""``find_optimal`` takes what its stages take, says so, and hands every argument on."""

from __future__ import annotations

import dataclasses
import inspect
import re
from functools import partial
from typing import Any

import pytest

from flops_fit import find_optimal, plan_sweep, run_sweep
from flops_fit.adaptive import Asked
from flops_fit.api import find, run

Parameters = dict[str, inspect.Parameter]

FIND: Parameters = dict(inspect.signature(find_optimal).parameters)
PLAN: Parameters = dict(inspect.signature(plan_sweep).parameters)
RUN: Parameters = dict(inspect.signature(run_sweep).parameters)
PLACES = ("executor", "output_dir", "resume", "progress")


class Stop(Exception):  # noqa: N818 - no error
    """The stage was called; nothing more is asked of it."""


class Pilot:
    """A plan that is only handed around."""

    task = object()
    budgets = (1e6, 2e6)


PILOT = Pilot()


class Stage:
    """Stands where a stage is called, and keeps what it was called with."""

    def __init__(self, stage: Any) -> None:
        self.signature = inspect.signature(stage)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.got = self.signature.bind(*args, **kwargs).arguments
        raise Stop


def test_each_argument_of_find_optimal_belongs_to_a_stage_or_to_adaptive_sweeps() -> None:
    assert set(PLAN) - set(FIND) == {"requires_data"}
    assert set(RUN) - set(FIND) == {"plan", "task"}
    assert set(FIND) - set(PLAN) - set(RUN) == {"train", "target_compute", "half_width", "tune"}


@pytest.mark.parametrize("stage", [PLAN, RUN], ids=["plan_sweep", "run_sweep"])
def test_shared_arguments_have_one_default_and_one_type(stage: Parameters) -> None:
    for name in FIND.keys() & stage.keys():
        told = (FIND[name].default, FIND[name].annotation)
        assert told == (stage[name].default, stage[name].annotation), name


@pytest.mark.parametrize("train", [True, False])
def test_every_argument_of_planning_is_handed_on(
    monkeypatch: pytest.MonkeyPatch, train: bool
) -> None:
    stage = Stage(plan_sweep)
    monkeypatch.setattr(find, "plan_sweep", stage)
    given = {name: object() for name in FIND}
    with pytest.raises(Stop):
        find_optimal(**{**given, "train": train, "tune": "none"})
    wanted: dict[str, Any] = {name: given[name] for name in PLAN if name != "requires_data"}
    assert stage.got == {**wanted, "requires_data": train}


def test_every_argument_of_running_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find, "plan_sweep", lambda *_, **__: PILOT)
    monkeypatch.setattr(find, "check_fittable", lambda plan: None)
    given = {name: object() for name in PLACES}
    wanted = {"plan": PILOT, "task": PILOT.task, "places": run.RunOptions(**given)}
    for module, call in (
        (find, partial(find_optimal, **given)),
        (run, partial(run_sweep, PILOT, **given)),
    ):
        stage = Stage(run.run_plan)
        monkeypatch.setattr(module, "run_plan", stage)
        with pytest.raises(Stop):
            call()
        assert stage.got == wanted


def test_every_argument_of_an_adaptive_sweep_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(find.find_adaptively)
    monkeypatch.setattr(find, "plan_sweep", lambda *_, **__: PILOT)
    monkeypatch.setattr(find, "find_adaptively", stage)
    given = {name: object() for name in PLACES}
    asked = {"target_compute": 1e12, "half_width": 0.2, "max_flops": 1e9, "sizes": [4, 8]}
    with pytest.raises(Stop):
        find_optimal(**given, **asked, design="adaptive")
    assert stage.got == {
        "plan": PILOT,
        "asked": Asked(1e12, 0.2, 1e9, pilot_budgets=PILOT.budgets),
        "sizes": [4, 8],
        "places": run.RunOptions(**given),
    }


def test_places_are_the_arguments_of_running() -> None:
    assert tuple(f.name for f in dataclasses.fields(run.RunOptions)) == PLACES
    assert set(RUN) == {"plan", "task", *PLACES}


def test_every_argument_is_explained() -> None:
    for function, parameters in ((find_optimal, FIND), (run_sweep, RUN)):
        text = inspect.getdoc(function)
        listed = text.split("Parameters\n----------\n")[1].split("\n\n")[0]
        names = [n for line in re.findall(r"^\S.*$", listed, re.M) for n in line.split(", ")]
        assert sorted(names) == sorted(parameters), function.__name__
