"""A plan made again with other hyper-parameters; what can neither be planned nor timed is said."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flops_fit import TrainingConfig, plan_sweep, run_sweep
from flops_fit.errors import InputError, InputTypeError, ModelError, PlanError
from flops_fit.flops import LinearFlops
from flops_fit.model import ModelSpec
from flops_fit.objective import Objective
from flops_fit.plan import SweepPlan
from flops_fit.plan.designs import Adaptive, Prior, resolve_design
from flops_fit.plan.findings import code_findings
from flops_fit.plan.planner import check_fittable
from flops_fit.recipes import resolve_recipe
from flops_fit.records import Run
from tests.conftest import MLP, Blobs, cross_entropy

BUDGETS = [2.03e5, 4.06e5, 8.12e5]


def planned(**changes: Any) -> SweepPlan:
    arguments: dict[str, Any] = {
        "model_cls": MLP, "model_size_param": "width", "dataset": Blobs(400), "loss_fn": cross_entropy,
        "compute_budgets": BUDGETS, "sizes": [4, 6, 8, 12], "batch_size": 8,
    }  # fmt: skip
    return plan_sweep(**{**arguments, **changes})


def remade(plan: SweepPlan, hparams: dict[str, Any], conditions: str | None = None) -> SweepPlan:
    assert plan.planner is not None
    return plan.planner.remake(plan, resolve_recipe(hparams), conditions)


def test_another_rate_gives_the_same_runs_with_other_ids() -> None:
    plan = planned()
    other = remade(plan, {"lr": 0.123, "batch_units": 8})
    pairs = list(zip(plan.experiments, other.experiments, strict=True))
    assert all((a.size, a.tokens, a.seed) == (b.size, b.tokens, b.seed) for a, b in pairs)
    assert all(b.hparams.lr == 0.123 and a.id != b.id for a, b in pairs)
    again = remade(other, {"lr": 0.123, "batch_units": 8})
    assert [e.id for e in again.experiments] == [e.id for e in other.experiments]
    elsewhere = remade(other, {"lr": 0.123, "batch_units": 8}, "of another pilot")
    assert not {e.id for e in elsewhere.experiments} & {e.id for e in other.experiments}


def test_runs_that_a_new_batch_does_not_fit_are_left_out_and_said() -> None:
    """288 samples, of width 8 at the smallest budget, are no whole number of batches of about 200."""
    plan = planned(batch_size="auto")
    other = remade(plan, {"lr": 0.01, "batch_units": 200})
    assert len(other) == len(plan) - 1
    said = next(d.message for d in other.diagnostics if d.code == "left_out")
    assert "1 runs were left out" in said


def test_a_budget_without_runs_is_refused() -> None:
    with pytest.raises(PlanError, match="with the new batches a budget has no run left"):
        remade(planned(batch_size="auto"), {"lr": 0.01, "batch_units": 4000})


def test_runs_that_share_a_trunk_do_so_again() -> None:
    wsd = {"schedule": "wsd", "batch_units": 8, "warmup_units": 16, "lr": 0.01}
    branched = planned(training=TrainingConfig(branch=True), hparams=wsd, design="rectangular", sizes=None,
                       compute_budgets=[1e8, 2e8, 4e8])  # fmt: skip
    other = remade(branched, wsd | {"lr": 0.02})
    trunks, before = ({e.trunk for e in p.experiments} for p in (other, branched))
    assert None not in trunks
    assert len(trunks) == len(before)
    assert not trunks & before


def test_too_few_runs_for_a_law_are_not_trained() -> None:
    with pytest.raises(PlanError, match="expected two budgets or more"):
        check_fittable(planned(compute_budgets=BUDGETS[:1]))
    check_fittable(planned())


def test_a_plan_shows_its_budgets_in_a_notebook() -> None:
    plan = planned()
    page = plan._repr_html_()
    assert all(f"{budget:.3g}" in page for budget in BUDGETS)
    assert f"{len(plan)} runs" in page


# --- designs


def test_adaptive_by_name_aims_ten_times_beyond_a_grid_for_the_cost_of_one() -> None:
    design = resolve_design("adaptive", [1e18, 1e19])
    assert isinstance(design, Adaptive)
    assert design.target_compute == pytest.approx(1e20)
    assert design.max_flops == pytest.approx(7 * 1.1e19)
    assert design.top == pytest.approx(7.7e18)
    assert resolve_design(design) is design
    assert Adaptive(target_compute=1e20, max_flops=1e19, max_run_flops=3e18).top == 3e18


def test_what_is_no_design_is_refused() -> None:
    with pytest.raises(InputError, match=r"needs the target of the answer"):
        resolve_design("adaptive")
    with pytest.raises(InputTypeError, match="expected a name or one of Grid"):
        resolve_design(7)
    with pytest.raises(InputError, match="max_run_flops"):
        Adaptive(target_compute=1e20, max_flops=1e19, max_run_flops=-1.0)


@pytest.mark.parametrize("size", [math.nan, 0.0, math.inf])
def test_a_prior_without_a_size_is_refused(size: float) -> None:
    with pytest.raises(InputError, match="was read from a file, without its law"):
        Prior("mine").optimum(1e18, LinearFlops())
    with pytest.raises(InputError, match="expected N. at 1e.18 FLOPs as a positive number"):
        Prior("mine", lambda C, flops: size).optimum(1e18, LinearFlops())


# --- what is measured


class Breaks(MLP):
    """A model that can be built where nothing is allocated, and not where it is trained."""

    def __init__(self, width: int = 8) -> None:
        super().__init__(width)
        if not self.up.weight.is_meta:
            raise RuntimeError("no room for this model")


def test_a_model_that_cannot_be_built_is_named_where_its_steps_are_timed() -> None:
    with pytest.raises(ModelError, match="no room for this model"):
        planned(model_cls=Breaks)


def test_records_hold_no_objects_as_sizes() -> None:
    with pytest.raises(InputTypeError, match="sizes: expected numbers, words or dicts"):
        planned(sizes=[object(), object()])


def test_a_first_batch_without_a_counted_unit_is_refused() -> None:
    with pytest.raises(InputError, match="holds no counted unit"):
        planned(count_fn=lambda batch: 0)


class Unseeded(Blobs):
    """Samples that another draw changes."""

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = super().__getitem__(i)
        return x + torch.tensor(np.random.default_rng().normal()), y


def test_samples_that_no_seed_repeats_are_named() -> None:
    codes = {d.code for d in planned(dataset=Unseeded(400)).diagnostics}
    assert "unseeded_data" in codes


def test_a_loss_with_weights_of_its_own_is_said_to_stay_as_it_is() -> None:
    class Weighted(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return self.scale * cross_entropy(output, targets)

    found = [d for d in planned(loss_fn=Weighted()).diagnostics if d.code == "untrained_loss"]
    assert "scale" in found[0].message


class OutOfMemory(MLP):
    """A model that the device has no room for."""

    def __init__(self, width: int = 8) -> None:
        super().__init__(width)
        if not self.up.weight.is_meta:
            raise torch.OutOfMemoryError("out of memory")


def test_a_model_without_room_here_is_planned_without_times() -> None:
    plan = planned(model_cls=OutOfMemory)
    assert plan.speed is None
    assert plan.seconds() is None
    assert len(plan) == len(planned())


class Other(MLP):
    """A model that returns something else when it is judged."""

    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x) if self.training else None


def test_a_model_that_fails_when_it_is_judged_is_refused_before_it_trains() -> None:
    with pytest.raises(ModelError, match=r"after model.eval\(\), in which held-out losses are"):
        planned(model_cls=Other)


def test_a_prior_that_refuses_a_budget_is_named() -> None:
    def refuse(C: float, flops: Any) -> float:
        raise PlanError("too little")

    with pytest.raises(InputError, match="mine gives no size for 1e.18 FLOPs: too little"):
        Prior("mine", refuse).optimum(1e18, LinearFlops())


def test_a_torn_record_is_missing_and_named(tmp_path: Path) -> None:
    plan = planned()
    first = plan.experiments[0]
    for experiment, text in ((first, "{"), (plan.experiments[1], "")):
        record = tmp_path / "runs" / experiment.id / "run.json"
        record.parent.mkdir(parents=True)
        run = Run(experiment, "completed", loss=2.0, tokens=experiment.tokens)
        record.write_text(text or json.dumps(run.to_dict()))
    found = plan.diff(tmp_path)
    assert [run.experiment.id for run in found.finished] == [plan.experiments[1].id]
    assert first in found.missing
    assert first.id in found.unreadable[0]
    assert "Unreadable: " in str(found)


class Flipped(Blobs):
    """Samples that PyTorch's generator changes, as augmentations do."""

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = super().__getitem__(i)
        return x * (1 if torch.rand(()) < 0.5 else -1), y


def test_a_held_out_set_that_is_drawn_anew_is_named() -> None:
    found = {d.code: d.message for d in planned(eval_dataset=Flipped(100)).diagnostics}
    assert "eval_dataset" in found["augmented_held_out"]
    found = {d.code: d.message for d in planned(dataset=Flipped(400)).diagnostics}
    assert "the training set" in found["augmented_held_out"]


class Scaled(MLP):
    """A model with settings of many kinds."""

    def __init__(self, width: int = 8, options: Any = None, parts: Any = ()) -> None:
        super().__init__(width)


def test_sizes_and_arguments_are_recorded_as_plain_values() -> None:
    kwargs = {"options": {"a": np.float64(0.5), "b": [np.int64(2)]}, "parts": (1, "x")}
    plan = planned(model_cls=Scaled, model_kwargs=kwargs, sizes=list(np.array([4, 6, 8])))
    first = plan.experiments[0]
    assert {type(e.size) for e in plan.experiments} == {int}
    assert first.model_kwargs == {"options": {"a": 0.5, "b": [2]}, "parts": [1, "x"]}
    assert SweepPlan.from_json(plan.to_json()).experiments == plan.experiments


class Elementwise(MLP):
    """A model without any product of matrices."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :4] * self.up.weight[0, :4] + self.down.weight.sum()


def test_a_model_without_work_that_counts_is_refused() -> None:
    with pytest.raises(InputError, match="no matrix product, convolution or attention was seen"):
        planned(model_cls=Elementwise)


def test_code_without_a_source_is_named_and_no_other() -> None:
    """What was typed into a prompt; a function that is not given has none to miss."""
    space: dict[str, Any] = {}
    exec("def typed(outputs, targets):\n    return (outputs - targets).square().mean()", space)
    spec = ModelSpec(MLP, "width")
    (told,) = code_findings(spec, Objective(space["typed"]))
    assert told.code == "no_source"
    assert "typed" in told.message
    assert "MLP" not in told.message
    assert code_findings(spec, Objective(cross_entropy)) == []


SHAPES = {(16, 1): "small", (32, 2): "large"}


class Shaped(torch.nn.Module):
    def __init__(self, shape: tuple[int, int], name: str = "") -> None:
        super().__init__()
        assert not name or SHAPES[shape] == name
        width, depth = {v: k for k, v in SHAPES.items()}[SHAPES[shape]]
        layers = [torch.nn.Linear(width, width) for _ in range(depth)]
        ends = torch.nn.Linear(16, width), torch.nn.Linear(width, 4)
        self.layers = torch.nn.Sequential(ends[0], *layers, ends[1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(x)
        return logits


@pytest.mark.parametrize(
    "sizes", [list(SHAPES), [{"shape": shape, "name": name} for shape, name in SHAPES.items()]]
)
def test_a_size_of_several_numbers_is_built_as_it_was_given(tmp_path: Path, sizes: Any) -> None:
    plan = plan_sweep(
        Shaped, None if isinstance(sizes[0], dict) else "shape", dataset=Blobs(),
        loss_fn=cross_entropy, compute_budgets=[2e7], sizes=sizes, batch_size=16,
    )  # fmt: skip
    runs = run_sweep(plan, output_dir=tmp_path, executor="pool", progress=False)
    assert [r.state for r in runs] == ["completed"] * 2
    recorded = [r.experiment.size for r in runs]
    shapes = [size["shape"] if isinstance(size, dict) else size for size in recorded]
    assert shapes == [[16, 1], [32, 2]]
    again = plan.planner.task(Run.from_dict(json.loads(json.dumps(runs[0].to_dict()))).experiment)
    assert again.loss == runs[0].loss


def test_a_data_set_that_is_judged_on_itself_is_named() -> None:
    data = Blobs(400)
    for own in (data, torch.utils.data.DataLoader(data), torch.utils.data.Subset(data, range(99))):
        found = planned(dataset=data, eval_dataset=own).diagnostics
        (message,) = (d.message for d in found if d.code == "same_held_out")
        assert message.startswith("of 64 held-out samples that were looked at, 64 are among those")
    others = [(x + 1, y) for x, y in torch.utils.data.Subset(data, range(99))]
    for other in (None, others):
        codes = {d.code for d in planned(dataset=data, eval_dataset=other).diagnostics}
        assert "same_held_out" not in codes


def test_windows_that_overlap_are_told_with_what_it_does() -> None:
    """Held-out windows are known from training, unless they are given; passes are longer than they seem."""
    series = torch.randn(500, generator=torch.Generator().manual_seed(0))
    windows = [(series[i : i + 16], torch.tensor(i % 3)) for i in range(0, 484, 4)]
    others = [(x + 1, y) for x, y in windows]
    for own, leaks in [(None, True), (others, False)]:
        found = planned(dataset=windows, eval_dataset=own).diagnostics
        (told,) = (d for d in found if d.code == "overlap")
        assert told.severity == "warning"
        assert "shares 75% of its content with the next" in told.message
        assert "meets all of it 4 times" in told.message
        assert ("what is held out is trained on as well" in told.message) == leaks
