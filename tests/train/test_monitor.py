"""Divergence ends a run and is told with its step; a spike is noted and survived."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flops_fit.train.monitor import DivergenceMonitor

losses = st.floats(-1e6, 1e6)
readings = st.lists(st.tuples(st.integers(1, 50), losses), min_size=1, max_size=120)


def feed(watch: DivergenceMonitor, values: Any, every: int = 1) -> str:
    reason, step = "", watch.save()["step"]
    for value in values:
        step += every
        reason = watch.observe(step, float(value))
    return reason


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_divergence_at_once(value: float) -> None:
    watch = DivergenceMonitor(1000)
    assert watch.observe(1, 4.0) == ""
    assert watch.observe(20, value) == f"training loss {value:g} by step 20"
    assert watch.observe(21, 4.0) == watch.state.reason != ""


def test_a_gradient_that_is_not_finite_is_divergence() -> None:
    watch = DivergenceMonitor(1000)
    assert watch.observe(1, 4.0, 1.0) == ""
    assert watch.observe(20, 4.0, math.inf) == "gradient norm inf by step 20"


@given(st.lists(st.floats(0.0, 4.3), min_size=1, max_size=200), st.integers(1, 20))
def test_a_loss_that_stays_about_its_start_or_below_never_diverges(
    values: list[float], every: int
) -> None:
    assert feed(DivergenceMonitor(1000), [4.0, *values], every) == ""


def test_the_smoothed_loss_halves_its_distance_in_a_half_life() -> None:
    watch = DivergenceMonitor(5000)  # a fiftieth is 100 steps
    watch.observe(1, 4.0)
    watch.observe(101, 2.0)
    assert watch.state.smoothed == pytest.approx(3.0)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_how_readings_are_cut_does_not_change_the_smoothed_loss(cuts: list[int]) -> None:
    whole, cut = DivergenceMonitor(5000), DivergenceMonitor(5000)
    whole.observe(1, 4.0)
    cut.observe(1, 4.0)
    step = 1
    for steps in cuts:
        step += steps
        cut.observe(step, 2.5)
    whole.observe(step, 2.5)
    assert cut.state.smoothed == pytest.approx(whole.state.smoothed)


@pytest.mark.parametrize("every", [1, 7, 50])
def test_a_rise_is_divergence_once_it_has_lasted(every: int) -> None:
    watch = DivergenceMonitor(1000)
    watch.observe(1, 4.0)
    feed(watch, [4.0] * (20 // every) + [3.0] * (200 // every), every)
    rise = watch.save()["step"]
    while not watch.state.reason:
        watch.observe(watch.save()["step"] + every, 8.0)
    # A fifth of the run, after the few steps in which the smoothed loss comes up.
    assert 200 <= watch.save()["step"] - rise <= 200 + 20 + 2 * every
    assert watch.state.reason.startswith("training loss rose from 4 to ")


def test_a_rise_that_passes_is_none() -> None:
    watch = DivergenceMonitor(1000)
    assert feed(watch, [4.0] * 10 + [6.0] * 150 + [3.5] * 100 + [6.0] * 150 + [3.0] * 10) == ""


def test_a_lucky_first_batch_makes_no_divergence() -> None:
    """The start is the median of the first readings, so one low draw does not set it."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        watch = DivergenceMonitor(1000)
        noise = rng.normal(0, 0.15, 1000)
        noise[0] = -0.5
        assert feed(watch, 4 * (1 + noise)) == ""


def test_a_rise_within_the_first_readings_does_not_hide_itself() -> None:
    watch = DivergenceMonitor(1000)  # the first half-life is 20 steps
    assert feed(watch, [4.0] * 12 + [400.0] * 300).startswith("training loss rose from 4 to ")


def test_two_readings_are_enough_for_a_short_run() -> None:
    watch = DivergenceMonitor(50)
    watch.observe(1, 1.4)
    assert watch.observe(50, 300.0).endswith("by step 50")


def test_a_spike_is_recorded_and_ends_nothing() -> None:
    rng = np.random.default_rng(0)
    values = 3.0 + 0.02 * rng.standard_normal(300)
    values[150] = 3.4
    watch = DivergenceMonitor(300)
    assert feed(watch, values) == ""
    assert watch.spikes == [(151, 3.4)]


def test_noise_alone_has_few_spikes() -> None:
    rng = np.random.default_rng(1)
    watch = DivergenceMonitor(10_000)
    feed(watch, 3.0 + 0.05 * rng.standard_normal(10_000))
    assert len(watch.spikes) <= 3


def test_skewed_noise_has_few_spikes() -> None:
    rng = np.random.default_rng(2)
    watch = DivergenceMonitor(10_000)
    feed(watch, [9.0])
    feed(watch, rng.exponential(1.0, 10_000))
    assert len(watch.spikes) < 30


def test_the_first_hundred_spikes_are_kept() -> None:
    watch = DivergenceMonitor(10_000)
    feed(watch, ([1.0] * 19 + [1.5]) * 150)
    assert watch.spikes == [(20 * i, 1.5) for i in range(1, 101)]


def test_the_loss_of_a_flat_run_may_ripple() -> None:
    watch = DivergenceMonitor(100)
    feed(watch, [2.0] * 20 + [2.001])
    assert watch.spikes == []


@given(readings, st.integers(0, 119))
def test_a_watch_that_was_saved_goes_on_as_if_it_had_not_been(
    values: list[tuple[int, float]], cut: int
) -> None:
    straight, resumed, step = DivergenceMonitor(2000), DivergenceMonitor(2000), 0
    for i, (steps, loss) in enumerate(values):
        step += steps
        if i == cut:
            saved = json.loads(json.dumps(resumed.save()))
            resumed = DivergenceMonitor(2000)
            resumed.load(saved)
        assert straight.observe(step, loss, abs(loss)) == resumed.observe(step, loss, abs(loss))
    assert straight.save() == resumed.save()


def test_what_was_saved_does_not_change_under_the_watch() -> None:
    watch = DivergenceMonitor(100)
    feed(watch, [1.0] * 9)
    saved = watch.save()
    before = json.dumps(saved)
    again = DivergenceMonitor(100)
    again.load(saved)
    feed(again, [9.0])
    feed(watch, [9.0])
    assert json.dumps(saved) == before


def test_the_state_stays_small() -> None:
    watch = DivergenceMonitor(10_000)
    feed(watch, ([1.0] * 19 + [1.5]) * 500)
    assert watch.state.reason == ""
    assert len(json.dumps(watch.save())) < 10_000
