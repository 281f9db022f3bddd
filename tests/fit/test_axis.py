"""A further argument that varied over a sweep has a best value, and an effect with an interval."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import flops_fit
from flops_fit.errors import InputError
from flops_fit.fit.axis import axis_effect


def runs(effect: float = 0.03, noise: float = 0.002, seed: int = 0) -> list[dict[str, object]]:
    """Of best depth 4 at every size; values stand across ln N."""
    rng = np.random.default_rng(seed)
    rows = []
    for b, C in enumerate((1e17, 3e17, 1e18, 3e18, 1e19)):
        for i, N in enumerate(np.geomspace(0.3, 3, 8) * 0.3 * (C / 6) ** 0.5):
            D, layers = C / (6 * N), (2, 4, 8)[(i * 2 + b + i // 3) % 3]
            loss = 1.7 + 400 / N**0.34 + 410 / D**0.28
            loss *= np.exp(effect * np.log2(layers / 4) ** 2 + noise * rng.standard_normal())
            rows.append({"params": N, "tokens": D, "flops": C, "loss": loss, "layers": layers,
                         "kind": "deep" if layers == 8 else "flat"})  # fmt: skip
    return rows


def test_the_best_value_and_the_cost_of_others_are_found() -> None:
    fit = flops_fit.fit_runs(runs())
    found = fit.axis("layers", 1e19)
    assert found.interval[0] < 4 < found.interval[1]
    assert found.interval[1] / found.interval[0] < 1.3
    assert found.p_value < 1e-6
    for value, cost in ((2.0, 0.03), (4.0, 0.0), (8.0, 0.03)):
        measured, (low, high) = found.excess[value]
        assert low - 1e-4 <= cost <= high + 1e-4
        assert measured == pytest.approx(cost, abs=0.004)
    assert str(found).startswith("layers: best 4")
    kinds = fit.axis("kind", 1e19)
    assert (kinds.best, kinds.interval) == ("flat", None)


@pytest.mark.parametrize("lower", [4.5, 20.0])
def test_the_best_value_of_losses_of_any_sign_has_the_lowest_loss(lower: float) -> None:
    table = [{**run, "loss": run["loss"] - lower} for run in runs()]
    fit = flops_fit.fit_runs(table)
    assert fit.loss_space == "linear"
    assert fit.axis("layers").best == pytest.approx(4, rel=0.3)
    assert fit.axis("kind").best == "flat"


def test_where_there_is_no_effect_none_is_claimed() -> None:
    """Values put to runs at random: p is as often small as it says."""
    fit = flops_fit.fit_runs(runs(effect=0.0))
    rng, small = np.random.default_rng(1), 0
    for _ in range(100):
        cells = tuple(rng.permutation(fit.runs.texts["layers"]).tolist())
        table = replace(fit.runs, texts={"layers": cells})
        small += axis_effect(table, fit.residuals, "layers", 1e19, 0.9).p_value < 0.1
    assert 2 <= small <= 20


def test_a_column_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match=r"got 'depth': the table has 'layers', 'kind'"):
        flops_fit.fit_runs(runs()).axis("depth", 1e19)


def test_too_few_runs_for_the_constants_of_an_argument_are_refused() -> None:
    """Eight runs leave two degrees of freedom beside two lines, a mean and three differences."""
    rows = [{**row, "kind": "abcd"[i % 4]} for i, row in enumerate(runs()[:40:5])]
    table = flops_fit.RunTable.read(rows)
    with pytest.raises(InputError, match="3 runs more than the 6 constants of 'kind'; got 8 runs"):
        axis_effect(table, np.zeros(8), "kind", 1e18, 0.9)


@pytest.mark.parametrize("empty", [None, float("nan"), ""])
def test_runs_without_a_value_are_left_out(empty: object) -> None:
    table = [{**r, "layers": empty if i % 5 == 0 else r["layers"]} for i, r in enumerate(runs())]
    found = flops_fit.fit_runs(table).axis("layers")
    assert set(found.excess) == {2.0, 4.0, 8.0}
    assert found.interval is not None


def test_what_is_no_finite_number_makes_a_column_of_texts() -> None:
    table = [{**r, "window": {2: "512", 4: "1024", 8: "inf"}[r["layers"]]} for r in runs()]
    found = flops_fit.fit_runs(table).axis("window")
    assert (found.best, found.interval) == ("1024", None)


@pytest.mark.parametrize("name", [["layers"], None, "layer"])
def test_a_name_is_one_heading(name: object) -> None:
    with pytest.raises(InputError, match="the table has 'layers', 'kind'"):
        flops_fit.fit_runs(runs()).axis(name)  # type: ignore[arg-type]


def test_no_value_lies_below_the_best() -> None:
    found = flops_fit.fit_runs(runs()).axis("layers")
    assert all(low >= 0 for _, (low, _) in found.excess.values())
