"""Plans of a model that something else builds: its sizes are known, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

import flops_fit
from flops_fit.errors import InputError, InputTypeError, ModelError
from flops_fit.model.sizes import ModelSizes

BUDGETS = [1e13, 3e13]


def test_all_ways_to_name_sizes_make_one_plan(tmp_path: Path) -> None:
    """C = 6·N·D in whole batches of samples of 32 tokens."""
    (tmp_path / "sizes.csv").write_text("size,params\n64,1.5e5\n128,600000\n256,2400000\n")
    table = {64: 150_000, 128: 600_000, 256: 2_400_000}
    ways = [
        table,
        [{"size": size, "params": n} for size, n in table.items()],
        tmp_path / "sizes.csv",
        lambda size: 150_000 * size**2 / 64**2,
    ]
    plans = [
        flops_fit.plan_sweep(
            ModelSizes(way, units_per_sample=32), compute_budgets=BUDGETS, sizes=[64, 128, 256]
        )
        for way in ways
    ]
    assert len({tuple(e.id for e in plan.experiments) for plan in plans}) == 1
    for e in plans[0].experiments:
        assert e.params.total == table[e.size]
        assert e.tokens == 32 * e.batch_size * e.steps
        assert e.flops == 6 * e.params.total * e.tokens == pytest.approx(e.budget, rel=0.01)
    assert "6·N per token" in str(plans[0])
    again = flops_fit.SweepPlan.from_json(plans[0].to_json())
    assert again == plans[0]


def test_a_cell_nested_too_deep_is_a_text(tmp_path: Path) -> None:
    path = tmp_path / "sizes.csv"
    path.write_text(f"size,params\n{'[' * 99_999},1e5\nsmall,8e5\n")
    assert ModelSizes(path).nearest(9e4) is not None


def test_rows_may_have_several_arguments_and_what_a_token_costs(tmp_path: Path) -> None:
    path = tmp_path / "sizes.csv"
    path.write_text("depth,dim,params,flops_per_unit\n2,64,1e5,7e5\n4,128,8e5,5e6\n6,256,6e6,4e7\n")
    plan = flops_fit.plan_sweep(ModelSizes(path), compute_budgets=BUDGETS)
    assert {e.size["dim"] for e in plan.experiments} <= {64, 128, 256}
    assert {e.flops_per_unit for e in plan.experiments} <= {7e5, 5e6, 4e7}
    assert float(plan.flops(8e5)) == pytest.approx(5e6)


def test_a_grid_takes_any_size_of_a_formula_and_the_nearest_of_a_table() -> None:
    formula = flops_fit.plan_sweep(ModelSizes(lambda size: 12 * size**2), compute_budgets=[1e12])
    assert len(formula) == 7
    table = ModelSizes({size: 12 * size**2 for size in (64, 90, 128, 180, 256)})
    plan = flops_fit.plan_sweep(table, compute_budgets=[1e12])
    assert [e.size for e in plan.experiments] == [64, 90, 128, 180]
    assert "is already used" in str(plan)


def test_flops_may_be_a_function_of_what_is_known() -> None:
    known = ModelSizes({64: 1e5, 128: 4e5}, unit="samples")
    plan = flops_fit.plan_sweep(
        known, compute_budgets=[1e12], sizes=[64, 128], flops=lambda m: 6 * m.params + 10 * m.size
    )
    assert [e.flops_per_unit for e in plan.experiments] == [600_640, 2_401_280]
    assert plan.unit == "samples"


def test_ids_depend_on_the_parameters_of_a_size_and_not_on_other_rows() -> None:
    def ids(table: dict[int, float]) -> list[str]:
        plan = flops_fit.plan_sweep(ModelSizes(table), compute_budgets=[1e12], sizes=[64])
        return [e.id for e in plan.experiments]

    assert ids({64: 1e5}) == ids({64: 1e5, 128: 4e5})
    assert ids({64: 1e5}) != ids({64: 1.001e5})


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({}, r"got \[\]"),
        ([{"params": 3}], "rows with params"),
        ({64: -1}, "positive number for size 64"),
        ({64: "many"}, "got 'many'"),
        (Path("no.csv"), "No such file"),
    ],
)
def test_what_is_no_table_is_refused(params: object, told: str) -> None:
    with pytest.raises((ModelError, InputTypeError), match=told):
        ModelSizes(params)


def test_known_sizes_are_trained_by_a_command_and_have_no_other_sizes() -> None:
    known = ModelSizes({64: 1e5, 128: 4e5})
    with pytest.raises(InputError, match="mode=CommandTask"):
        flops_fit.find_optimal(known, compute_budgets=[1e12])
    with pytest.raises(InputError, match="beside ModelSizes"):
        flops_fit.plan_sweep(known, "width", compute_budgets=[1e12])
    with pytest.raises(ModelError, match=r"expected one of \[64, 128\]"):
        flops_fit.plan_sweep(known, compute_budgets=[1e12], sizes=[96])
