"""Benchmark scores: two routes to one answer, held against the largest runs, or no answer at all."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from flops_fit.errors import FitError, InputError, InputTypeError, TableError
from flops_fit.fit import MetricFit, metric
from flops_fit.fit.metric_routes import Direct, LawOfLoss, Scale, TwoSteps, minimise
from flops_fit.fit.metrics import BOTH
from flops_fit.fit.solver import finding
from flops_fit.laws import Hoffmann
from flops_fit.table import RunTable
from tests.fit._runs import sweep, unconverged

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


def test_two_routes_that_did_alike_answer_together() -> None:
    """The mean of both, and all draws of both in the interval."""
    columns, noise = table(), np.random.default_rng(0).normal(size=20)
    N, D = columns["params"], columns["tokens"]
    quiz = 0.25 + 0.75 * np.exp(-((4e8 / N) ** 0.5) - (1e10 / D) ** 0.5) + 0.02 * noise
    fit = metric({**columns, "quiz": quiz}, "quiz", chance=0.25)
    assert fit.headline == BOTH
    assert "the mean of both answers" in str(fit)
    told = fit.predict(1e21)
    assert told.value == pytest.approx(np.mean([v for v, _ in told.routes.values()]))
    N, D = np.array([told.params]), np.array([told.tokens])
    each = [fit.draws(N, D, name) for name in ("two steps", "direct")]
    assert np.array_equal(fit.draws(N, D), np.vstack(each))
    assert told.interval == pytest.approx(np.quantile(np.vstack(each), [0.05, 0.95]))


def test_of_eight_runs_two_are_held_out() -> None:
    """Of more than six the law needs each."""
    columns = {name: values[::-2][:8] for name, values in table().items()}
    assert set(metric(columns, "quiz", chance=0.25).held_out) == {"two steps", "direct"}


def test_an_optimum_that_is_not_trusted_is_said_with_the_score_there(quiz: MetricFit) -> None:
    """A pair (N, D) does not need it."""
    lost = replace(quiz.loss_fit, diagnostics=(finding("poor_fit", "critical", name="first"),))
    doubted = replace(quiz, loss_fit=lost)
    assert "metric_optimum" in {d.code for d in doubted.predict(1e21).diagnostics}
    assert "metric_optimum" not in {d.code for d in doubted.predict((1e9, 1e11)).diagnostics}
    assert "metric_optimum" not in {d.code for d in quiz.predict(1e21).diagnostics}


def test_a_score_that_does_not_follow_the_loss_predicts_nothing() -> None:
    columns = table()
    shuffled = np.random.default_rng(1).permutation(columns["quiz"])
    told = metric({**columns, "quiz": shuffled}, "quiz", chance=0.0)
    assert told.trust == "no"
    assert "metric_no_trend" in {d.code for d in told.diagnostics}
    assert math.isnan(told.predict(1e22).value)


def test_a_ceiling_that_the_runs_show_is_found() -> None:
    """Half of the answers are wrong for all that is learnt."""
    runs = sweep(LAW, budgets=(1e18, 4e18, 2e19, 1e20), sizes=5, sd=0.003)
    quiz = 0.5 / (1 + np.exp(8 * (runs["loss"] - 3.0)))
    free = metric({**runs, "quiz": quiz}, "quiz", ceiling=None)
    best = LAW.optimal(1e22)
    assert free.predict(1e22).value == pytest.approx(
        0.5 / (1 + np.exp(8 * (float(best.loss) - 3.0))), abs=0.03
    )


def test_a_step_by_another_loss_reads_it_from_a_table_too() -> None:
    """The bits of its own answers, where the loss of the runs is of something else."""
    columns = table()
    columns["bpb"] = columns["loss"]
    columns["loss"] = columns["loss"] * np.exp(0.2 * columns["noise"])
    rows = RunTable.read(columns, metrics=("quiz", "bpb"))
    found = metric(rows, "quiz", chance=0.25, loss="bpb")
    assert np.array_equal(found.runs.loss, columns["bpb"])


def test_routes_of_a_law_without_draws_have_its_loss(quiz: MetricFit) -> None:
    evidence = unconverged(quiz.loss_fit)._evidence
    N, D = np.array([1e9, 2e9]), np.array([1e11, 1e11])
    assert LawOfLoss(evidence).draws(N, D)[0] == pytest.approx(evidence.law.loss(N, D))
    steps = TwoSteps(evidence, quiz.runs.loss, quiz.scores, quiz.scale)
    assert np.median(steps.draws(N, D), axis=0) == pytest.approx(
        np.asarray(truth(evidence.law.loss(N, D))), abs=0.02
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"column": ["quiz"]}, "heading of one metric"),
        ({"column": None}, "heading of one metric"),
        ({"column": "loss"}, "the runs' loss"),
        ({"column": "params"}, "the runs' params"),
        ({"loss": "quiz"}, "another column than the metric"),
        ({"ceiling": 0.5}, "highest score there is"),
        ({"column": "Quizz"}, "Did you mean 'quiz'"),
    ],
)
def test_columns_and_ceilings_that_cannot_be_are_refused(
    options: dict[str, Any], words: str
) -> None:
    named = {"column": "quiz", "chance": 0.25, **options}
    with pytest.raises((InputError, InputTypeError, TableError), match=words):
        metric(table(), **named)


def test_several_budgets_are_no_pair(quiz: MetricFit) -> None:
    with pytest.raises(InputError, match="one at a time"):
        quiz.predict([1e20, 1e21])  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0.5, 1.0])
def test_scores_that_are_all_equal_show_no_trend(value: float) -> None:
    flat = metric(table(quiz=np.full(20, value)), "quiz", chance=0.25)
    assert {d.code for d in flat.diagnostics} == {"metric_no_trend"}
    assert "nan" not in str(flat.diagnostics[0])


def test_shares_may_be_written_in_percent() -> None:
    columns = table()
    columns["written"] = [f"{100 * share:.6f} %" for share in columns["quiz"]]
    fit = metric(columns, "written", chance=0.25)
    assert fit.scores == pytest.approx(columns["quiz"], abs=1e-6)


@pytest.mark.parametrize(
    "arguments", [("bpb", "loss"), ("quiz", "accuracy")], ids=["loss", "accuracy"]
)
def test_runs_that_were_not_tried_on_a_task_are_not_lost_by_their_outcome(
    arguments: tuple[str, Any],
) -> None:
    columns = table()
    columns["bpb"] = np.where(np.arange(20) % 5 == 0, math.nan, columns["loss"])
    fit = metric(columns, *arguments, loss="bpb")
    untried = [e for e in fit.runs.excluded if e.reason == "it has no value of bpb"]
    assert len(untried) == 4
    assert not any(e.by_outcome for e in fit.runs.excluded)


def test_without_its_chance_a_metric_is_trusted_less() -> None:
    """Errors count beside how far the runs' own scores reach, not beside guesses taken for ability."""
    columns = table()
    columns["quiz"] = 0.25 + 0.75 / (1 + np.exp(5 * (columns["loss"] - 2.2)))
    assert metric(columns, "quiz").trust == "caution"
    assert metric(columns, "quiz", chance=0.25).trust == "ok"


def test_an_interval_over_half_of_all_scores_is_told():
    """Scores that flatten below their ceiling say little of larger runs."""
    rng = np.random.default_rng(1)
    C = np.repeat(np.geomspace(1e18, 1e20, 5), 7)
    N = 0.09 * C**0.5 * np.tile(np.geomspace(1 / 6, 6, 7), 5)
    loss = 1.8172 + 482.01 / N**0.3478 + 2085.43 / (C / 6 / N) ** 0.3658
    score = 0.25 + 0.35 / (1 + np.exp(6 * (loss - 2.9))) + 0.003 * rng.normal(size=35)
    fit = metric({"N": N, "D": C / 6 / N, "loss": loss, "acc": score}, "acc", chance=0.25)
    assert fit.trust != "ok"
    assert "metric_width" in {d.code for d in fit.diagnostics}
