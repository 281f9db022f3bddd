"""A curve and a schedule tell where a run will end; an interval says how surely."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flops_fit
from flops_fit import forecast
from flops_fit.errors import InputError, TableError
from flops_fit.hparams import HParams, learning_rate

STEPS = 4_000
AT = np.arange(20.0, STEPS + 1, 20)
WSD = HParams(lr=0.01, batch_units=1, schedule="wsd", cooldown=0.25)


def rates(hparams: HParams = WSD) -> np.ndarray:
    return np.array([learning_rate(hparams, (i + 0.5) / STEPS) for i in range(STEPS)])


def curve(
    E: float = 2.0, A: float = 12.0, B: float = 0.15, noise: float = 0.004, hparams: HParams = WSD
) -> np.ndarray:
    """The multi-power law step by step, as published but for the root of the rate in S₁."""
    eta = rates(hparams) / hparams.lr
    sums, peak = np.cumsum(eta), int(np.argmax(eta))
    drops = np.diff(eta, prepend=0.0)[peak + 1 :]
    rng = np.random.default_rng(int(1000 * E))
    losses = []
    for step in AT.astype(int):
        seen = max(step - peak - 1, 0)
        since = sums[step - 1] - sums[peak : peak + seen]
        share = (
            1
            - (1 + 0.02 * np.maximum(eta[peak + 1 : peak + 1 + seen], 1e-9) ** -0.6 * since) ** -0.8
        )
        losses.append(E + A * np.sqrt(eta[:step]).sum() ** -0.45 + B * np.sum(drops[:seen] * share))
    return np.array(losses) + noise * rng.standard_normal(len(AT))


TRUTH = float(curve(noise=0.0)[-1])


def half_seen(loss: np.ndarray, share: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    part = share * STEPS >= AT
    return AT[part], loss[part]


def test_earlier_runs_tell_what_the_cool_down_will_do() -> None:
    """Before it has begun, the curve alone can say little, and does."""
    own = half_seen(curve())
    alone = forecast(own, WSD, end=STEPS)
    others = [((AT, curve(E, A, 0.15 * A / 12)), WSD) for E, A in ((2.6, 10.0), (2.3, 11.0))]
    told = forecast(own, WSD, end=STEPS, prior=others)
    assert told.interval[0] < TRUTH < told.interval[1]
    assert alone.interval[0] < TRUTH < alone.interval[1]
    assert abs(told.value / TRUTH - 1) < 0.005
    assert np.diff(told.interval) < 0.5 * np.diff(alone.interval)
    assert told.seen == 0.5


@pytest.mark.parametrize(("seen", "within"), [(0.5, 0.02), (0.9, 0.005)])
def test_a_cosine_is_followed_to_its_end(seen: float, within: float) -> None:
    cosine = HParams(lr=1e-3, batch_units=1)
    loss = curve(hparams=cosine)
    found = forecast(half_seen(loss, seen), cosine, end=STEPS)
    truth = curve(hparams=cosine, noise=0.0)[-1]
    assert abs(found.value / truth - 1) < within
    assert found.interval[0] < truth < found.interval[1]
    assert found.loss[-1] == found.value


def test_a_schedule_may_be_given_in_any_way() -> None:
    own = half_seen(curve(), 0.9)
    named = HParams(lr=1, batch_units=1, schedule="wsd")
    per_step = rates(named)
    values = [
        forecast(own, schedule, end=end).value
        for schedule, end in (
            ("wsd", STEPS), (named, STEPS), ({"schedule": "wsd"}, STEPS), (per_step, None),
            (lambda step: 7 * learning_rate(named, step / STEPS), STEPS),
        )
    ]  # fmt: skip
    assert np.ptp(values) < 1e-4


def test_a_curve_may_be_a_table(tmp_path: Path) -> None:
    """Rows without a loss, such as those of evaluations, are none of its points."""
    x, loss = half_seen(curve())
    path = tmp_path / "log.csv"
    rows = [f"{a:.0f},{b!r}" for a, b in zip(x, loss.tolist(), strict=True)]
    path.write_text("\n".join(["step,loss", *rows, "2000,"]))
    expected = forecast((x, loss), "wsd", end=STEPS).value
    assert forecast(str(path), "wsd", end=STEPS).value == pytest.approx(expected)
    assert forecast({"step": x, "loss": loss}, "wsd", end=STEPS).value == pytest.approx(expected)


def test_spikes_do_not_move_it() -> None:
    x, loss = half_seen(curve(), 0.9)
    spiked = loss.copy()
    spiked[50::40] += 2.0
    calm, wild = (forecast((x, y), WSD, end=STEPS).value for y in (loss, spiked))
    assert abs(wild / calm - 1) < 0.01


def test_it_says_its_answer_in_a_sentence() -> None:
    found = forecast(half_seen(curve(), 0.9), WSD, end=STEPS)
    assert str(found).startswith(f"expected {TRUTH:.1f}")
    assert str(found).endswith(f"({found.span}) at step 4,000")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (((AT[:6], AT[:6]), "wsd"), "expected the position at which the run ends"),
        (((AT[:6], AT[:6]), "wsd", 100.0), "a run that ends after its curve"),
        (((AT[:9], AT[:9]), "wsd", STEPS), "Ask again later in the run"),
        (((AT, AT), "linear", STEPS), "expected one of"),
        (((AT, AT), [0.0, -1.0], STEPS), "rates of 0 or more"),
        (((AT, AT[:5]), "wsd", STEPS), "as many positions as losses"),
        (({"time": AT, "loss": AT}, "wsd", STEPS), "columns such as step and loss"),
    ],
)
def test_what_cannot_be_forecast_is_refused(arguments: tuple[Any, ...], words: str) -> None:
    kind = (InputError, TableError, flops_fit.errors.InputTypeError)
    with pytest.raises(kind, match=words):
        forecast(*arguments[:2], end=arguments[2] if arguments[2:] else None)


HALF = half_seen(curve())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (((AT, np.full(len(AT), np.nan)), "wsd", STEPS), "finite losses; it has none"),
        (((-AT, AT), "wsd", STEPS), "finite losses; it has none"),
        ((np.stack(HALF), "wsd", STEPS), "a pair of arrays"),
        ((HALF[1].tolist(), "wsd", STEPS), "a pair of arrays"),
        (((AT, ["x"] * len(AT)), "wsd", STEPS), "numbers in both arrays"),
        (({"step": AT, "loss": ["x"] * len(AT)}, "wsd", STEPS), "expected a number, got 'x'"),
        ((HALF, {"name": "wsd"}, STEPS), "got \\['name'\\]"),
        ((HALF, "WSD", STEPS), "Did you mean 'wsd'"),
        ((HALF, ["a", "b"], STEPS), "two or more rates"),
        ((HALF, object(), STEPS), "two or more rates"),
        ((HALF, lambda _: None, STEPS), "got nan"),
        ((HALF, [np.nan, 1.0, 0.5], STEPS), "got nan"),
        ((HALF, rates()[: len(HALF[0])], STEPS), "rates of the whole run"),
        ((HALF, rates()[: STEPS // 2], STEPS), "rates of the whole run"),
    ],
)
def test_no_misreading_and_no_traceback(arguments: tuple[Any, ...], words: str) -> None:
    with pytest.raises((InputError, flops_fit.errors.InputTypeError), match=words):
        forecast(*arguments[:2], end=arguments[2])


@pytest.mark.parametrize("prior", ["a.csv", [HALF[0]], (HALF, "wsd"), 3])
def test_earlier_runs_in_another_shape_are_refused(prior: Any) -> None:
    with pytest.raises(flops_fit.errors.InputTypeError, match="prior: expected"):
        forecast(HALF, "wsd", end=STEPS, prior=prior)


@pytest.mark.parametrize("position", ["_step", "iter", "train/global_step", "units"])
@pytest.mark.parametrize("loss", ["train/loss", "lm loss", "train_loss"])
def test_headings_of_trackers_and_trainers_are_known(position: str, loss: str) -> None:
    table = {position: HALF[0], loss: HALF[1], "val_loss": HALF[1] + 1}
    assert forecast(table, "wsd", end=STEPS).value == forecast(HALF, "wsd", end=STEPS).value


def test_an_export_of_tensorboard_is_read() -> None:
    table = {"Wall time": HALF[0], "Step": HALF[0], "Value": HALF[1]}
    assert forecast(table, "wsd", end=STEPS).value == forecast(HALF, "wsd", end=STEPS).value


def test_cells_carry_units_as_in_a_table_of_runs() -> None:
    table = {"tokens": [f"{x:g}M" for x in HALF[0]], "loss": HALF[1]}
    expected = forecast((1e6 * HALF[0], HALF[1]), "wsd", end=STEPS * 1e6)
    assert forecast(table, "wsd", end=STEPS * 1e6).value == pytest.approx(expected.value)


@pytest.mark.parametrize("seen", [0.5, 0.9])
@pytest.mark.parametrize("prior", [[], [((AT, curve(2.6, 10.0, 0.125)), WSD)]])
def test_tokens_do_as_well_as_steps(seen: float, prior: list[Any]) -> None:
    """The law's rate C is one per step, and no run has as many steps as tokens."""
    x, loss = half_seen(curve(), seen)
    steps = forecast((x, loss), WSD, end=STEPS, prior=prior)
    in_tokens = [((1e6 * at, y), schedule) for (at, y), schedule in prior]
    tokens = forecast((1e6 * x, loss), WSD, end=1e6 * STEPS, prior=in_tokens)
    assert tokens.value == pytest.approx(steps.value, rel=0.025)
    assert tokens.interval[0] < TRUTH < tokens.interval[1]
    assert (tokens.end, tokens.at[-1], tokens.seen) == (1e6 * STEPS, 1e6 * STEPS, steps.seen)
    law = tokens.constants
    power = law["A"] * np.sum(np.sqrt(rates() / WSD.lr) * 1e6) ** -law["alpha"]
    assert law["E"] + power >= tokens.value


def test_two_runs_in_a_table_are_not_mixed() -> None:
    table = {"run": ["a", "b"] * len(HALF[0]), "step": np.repeat(HALF[0], 2)}
    table["loss"] = np.repeat(HALF[1], 2) + np.tile([0.0, 0.5], len(HALF[0]))
    with pytest.raises(InputError, match="names 2"):
        forecast(table, "wsd", end=STEPS)


def test_of_steps_taken_again_after_a_resume_the_last_count() -> None:
    x, loss = HALF
    again = np.r_[x[:80], x[60:]], np.r_[loss[:60], loss[60:80] + 3, loss[60:]]
    assert forecast(again, "wsd", end=STEPS).value == forecast(HALF, "wsd", end=STEPS).value


def test_a_run_that_diverges_has_a_wide_interval() -> None:
    x, loss = HALF
    calm = forecast(HALF, "wsd", end=STEPS)
    wild = forecast((x, loss + np.where(x > 1700, (x - 1700) / 100, 0)), "wsd", end=STEPS)
    assert np.diff(wild.interval) > 5 * np.diff(calm.interval)


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_digits_follow_the_unit_of_the_loss(unit: float) -> None:
    found = forecast((HALF[0], unit * HALF[1]), "wsd", end=STEPS)
    low, high = map(float, found.span.split("–"))
    assert low < high
