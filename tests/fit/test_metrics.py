"""Benchmark scores: two routes to one answer, held against the largest runs, or no answer at all."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from flops_fit.errors import FitError, InputError, TableError
from flops_fit.fit import MetricFit, metric
from flops_fit.fit.metric_routes import Direct, Scale, minimise
from flops_fit.laws import Hoffmann
from flops_fit.table import RunTable
from tests.fit._runs import sweep

LAW = Hoffmann(1.7, 400.0, 1100.0, 0.34, 0.34)


def truth(loss: Any) -> Any:
    """A quiz of four choices, half learnt at a loss of 2.6."""
    return 0.25 + 0.75 / (1 + np.exp(4 * (loss - 2.6)))


def table(**columns: Any) -> dict[str, Any]:
    """Twenty runs of up to 1e20 FLOPs with a score."""
    runs = sweep(LAW, budgets=(1e18, 4e18, 2e19, 1e20), sizes=5, sd=0.003)
    noise = np.random.default_rng(4).normal(size=20)
    return {**runs, "quiz": truth(runs["loss"]) + 0.006 * noise, "noise": noise, **columns}


@pytest.fixture(scope="module")
def quiz() -> MetricFit:
    return metric(table(), "quiz", chance=0.25)


def test_a_score_a_hundred_times_beyond_lies_in_its_interval(quiz: MetricFit) -> None:
    best = LAW.optimal(1e22)
    told = quiz.predict(1e22)
    low, high = told.interval or (math.nan, math.nan)
    assert low < truth(float(best.loss)) < high
    assert high - low < 0.2
    assert told.compute == pytest.approx(1e22)
    assert set(told.routes) == {"two steps", "direct"} == set(quiz.held_out)
    assert quiz.trust == "ok"
    assert quiz.held_out["two steps"] < 0.03


def test_a_pair_and_its_compute_have_one_answer(quiz: MetricFit) -> None:
    told = quiz.predict(3e20)
    assert quiz.predict((told.params, told.tokens)).value == told.value
    narrow = quiz.predict(3e20, level=0.5).interval
    assert told.interval is not None
    assert narrow is not None
    assert told.interval[0] < narrow[0] < narrow[1] < told.interval[1]


def test_the_fit_shows_itself(quiz: MetricFit) -> None:
    assert "two steps" in str(quiz)
    assert "| answer" in str(quiz.predict(1e21))
    assert isinstance(quiz.plot(), Figure)
    assert quiz.to_dict()["trust"] == "ok"


def test_below_its_threshold_nothing_is_predicted() -> None:
    """Every run guesses: what emerges later cannot be known."""
    columns = table()
    columns["quiz"] = 0.25 + 0.01 * (columns["noise"] - np.mean(columns["noise"]))
    flat = metric(columns, "quiz", chance=0.25)
    told = flat.predict(1e22)
    assert flat.trust == "no"
    assert math.isnan(told.value)
    assert told.interval is None
    assert told.routes == {}
    assert {d.code for d in told.diagnostics} >= {"metric_at_chance"}
    assert isinstance(flat.plot(), Figure)


def test_runs_without_a_score_are_left_out_and_said() -> None:
    columns = table()
    columns["quiz"][:4] = math.nan
    fit = metric(columns, "quiz", chance=0.25)
    assert len(fit.runs) == 16
    assert "metric_missing" in {d.code for d in fit.diagnostics}


def test_a_task_loss_is_a_law_of_its_own() -> None:
    columns = table()
    columns["bpb"], columns["loss"] = columns["loss"], columns["loss"] + columns["noise"]
    told = metric(columns, "bpb", "loss").predict((1e10, 1e11))
    assert told.value == pytest.approx(LAW.loss(1e10, 1e11), rel=0.03)
    assert told.interval is not None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("quiz", "acc"), "expected one of"),
        (("percent",), "shares between 0 and 1"),
        (("quiz", "pass@k", 0.25), "Leave it out"),
        (("quizz",), "Did you mean 'quiz'"),
    ],
)
def test_what_cannot_be_used_is_refused(arguments: tuple[Any, ...], words: str) -> None:
    column, *rest = arguments
    kind, chance = (*rest, *("accuracy", 0.0)[len(rest) :])
    columns = table()
    columns["percent"] = 100 * columns["quiz"]
    with pytest.raises((InputError, TableError), match=words):
        metric(columns, column, kind, chance=chance)


def test_few_runs_and_a_table_without_the_metric_are_refused() -> None:
    short = {name: values[:7] for name, values in table().items()}
    with pytest.raises(FitError, match="8 runs or more"):
        metric(short, "quiz")
    with pytest.raises(TableError, match="expected a column 'quiz'"):
        metric(RunTable.read(table()), "quiz")


def test_the_direct_route_recovers_its_own_constants() -> None:
    N, D = (v.ravel() for v in np.meshgrid(np.geomspace(1e8, 1e10, 5), np.geomspace(1e9, 1e11, 5)))
    scores = np.exp(-((1e9 / N) ** 0.3) / 2 - (1e10 / D) ** 0.4)
    drawn = Direct(N, D, scores, Scale(0.0)).draws(np.array([1e11]), np.array([1e12]))
    assert np.median(drawn) == pytest.approx(np.exp(-(0.01**0.3) / 2 - 0.01**0.4), abs=0.005)


def test_many_problems_are_minimised_at_once() -> None:
    """Each row ends where its own squares are least, as one alone does."""
    targets = np.array([[1.0, 2.0], [3.0, 0.5]])
    end = minimise(lambda t: np.exp(t) - targets, np.zeros((2, 2)))
    assert np.exp(end) == pytest.approx(targets, abs=1e-3)
