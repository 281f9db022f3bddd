"""Losses and units that do not add up over samples are named at planning, and judged alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from flops_fit import SweepPlan, TrainingConfig, plan_sweep, run_sweep
from flops_fit.data.spec import split_data
from flops_fit.errors import InputError, LossError
from flops_fit.model import ModelSpec
from flops_fit.objective import Objective
from flops_fit.plan.extent import Extent, examine, perturbed
from flops_fit.plan.findings import batch_norms, settle_labels
from tests.conftest import MLP, Blobs, cross_entropy

TOLD = {"units_of_step", "units_of_batches", "whole_batch_loss", "loss_no_mean"}
POINTS = torch.randn(1000, 16, generator=torch.Generator().manual_seed(0))
PAIRS = torch.utils.data.TensorDataset(POINTS, POINTS.roll(3, 1))
WEIGHTS = torch.tensor([1.0, 1.0, 4.0, 20.0])


class Towers(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = MLP(width), MLP(width)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        out: Tensor = self.first(x) @ self.second(y).T
        return out


def contrastive(model: nn.Module, batch: Any) -> tuple[Tensor, int]:
    logits = model(*batch)
    return cross_entropy(logits, torch.arange(len(logits))) * len(logits), len(logits)


def regression(model: nn.Module, batch: Any) -> Tensor:
    return functional.mse_loss(model(batch[0]), batch[1][:, :4])


def noisy(model: nn.Module, batch: Any) -> tuple[Tensor, int]:
    x = batch[0] + torch.randn_like(batch[0])
    return functional.mse_loss(model(x), batch[1][:, :4]) * len(x), len(x)


def summed(model: nn.Module, batch: Any) -> tuple[Tensor, int]:
    """A mean over the batch and a small sum, of noise."""
    loss, n = noisy(model, batch)
    return loss + 2e-3 * torch.randn_like(batch[0]).square().sum() * n, n


class Words(nn.Module):
    """A head that begins at zero, so that every token has the same loss at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(12, width), nn.Linear(width, 12)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.table(ids))
        return logits


def texts(padding: int, length: int | None = None) -> Any:
    """Texts of 3 to 12 words, padded to the longest of a batch, or to one length."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 13, (600,), generator=generator).tolist()
    rows = [torch.randint(1, 12, (n,), generator=generator) for n in lengths]

    def collate(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
        y = pad_sequence(rows, batch_first=True, padding_value=padding)
        if length is not None:
            y = functional.pad(y, (0, length - y.shape[1]), value=padding)
        return y.clamp(min=0), y

    return torch.utils.data.DataLoader(rows, batch_size=8, collate_fn=collate)  # type: ignore[arg-type]


def mean_of_tokens(logits: Tensor, targets: Tensor, ignored: int = -100) -> Tensor:
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=ignored)


def shifted(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    """Of each word from the one before, so that the first has no loss, and is not counted."""
    count = (batch[1][:, 1:] != -100).sum()
    return mean_of_tokens(model(batch[0][:, :-1]), batch[1][:, 1:]) * count, count


def without_zeros(logits: Tensor, targets: Tensor) -> Tensor:
    return mean_of_tokens(logits, targets, 0)


def plan(model: Any = MLP, **change: Any) -> SweepPlan:
    usual = {"compute_budgets": [1e7], "sizes": [8], "batch_size": 16, "hparams": {"lr": 3e-3}}
    return plan_sweep(model, "width", **{**usual, **change})


def told(**change: Any) -> list[str]:
    return [d.code for d in plan(**change).diagnostics if d.code in TOLD]


@pytest.mark.parametrize(
    ("codes", "change"),
    [
        ([], {"dataset": Blobs(500), "loss_fn": cross_entropy}),
        ([], {"dataset": PAIRS, "step_fn": noisy}),
        (["loss_no_mean"], {"dataset": PAIRS, "step_fn": summed}),
        ([], {"model": Words, "dataset": texts(-100), "loss_fn": mean_of_tokens}),
        (["whole_batch_loss"], {"model": Towers, "dataset": PAIRS, "step_fn": contrastive}),
        (
            ["loss_no_mean"],
            {"dataset": Blobs(500), "loss_fn": nn.CrossEntropyLoss(weight=WEIGHTS)},
        ),
        (
            ["loss_no_mean"],
            {"dataset": Blobs(500), "loss_fn": lambda o, t: cross_entropy(o, t).sqrt()},
        ),
        (
            ["loss_no_mean"],
            {"model": Words, "dataset": texts(0, 12), "loss_fn": without_zeros},
        ),
        (
            [],
            {
                "model": Words,
                "dataset": texts(0, 12),
                "loss_fn": without_zeros,
                "count_fn": lambda batch: (batch[1] != 0).sum(),
            },
        ),
        (["units_of_batches"], {"model": Words, "dataset": texts(0), "loss_fn": mean_of_tokens}),
        (["units_of_step"], {"model": Words, "dataset": texts(-100), "step_fn": shifted}),
    ],
    ids=[
        "mean",
        "random",
        "random sum",
        "ragged",
        "contrastive",
        "weights",
        "root",
        "ignored",
        "counted",
        "padded",
        "shifted",
    ],
)
def test_what_is_no_mean_over_the_counted_units_is_named(
    codes: list[str], change: dict[str, Any]
) -> None:
    assert told(**change) == codes


@pytest.mark.parametrize("ignored", [0, 1, -100])
def test_targets_that_the_loss_leaves_out_are_told_where_they_are_counted(ignored: int) -> None:
    """Of 0, as padding; of 1, the lowest class; of -100 D holds none, so that nothing is told."""
    x = POINTS[:600]
    y = torch.arange(600) % 4
    y = torch.where(y == 0, ignored, y)
    data = torch.utils.data.TensorDataset(x, y)
    made = plan(dataset=data, loss_fn=nn.CrossEntropyLoss(ignore_index=ignored))
    found = [d for d in made.diagnostics if d.code == "ignored_targets"]
    if ignored == -100:
        assert not found
    else:
        assert f"of the targets in a batch are {ignored}," in found[0].message
        assert f"!= {ignored}" in found[0].action


class Remembers(MLP):
    """A number of calls, which it counts while it is evaluated too."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        logits: Tensor = super().forward(x) * self.calls.clone()
        return logits


def test_units_are_those_that_a_step_counts_where_these_are_samples() -> None:
    """A pair of vectors and text, as of images and captions: the text is no target."""

    class Pair(Towers):
        def __init__(self, width: int) -> None:
            super().__init__(width)
            self.words = nn.Embedding(4, 16)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return super().forward(x, self.words(y).mean(1))

    words = torch.randint(4, (1000, 6), generator=torch.Generator().manual_seed(0))
    made = plan(Pair, dataset=torch.utils.data.TensorDataset(POINTS, words), step_fn=contrastive)
    (run,) = made.experiments
    assert (run.unit, run.units_per_sample) == ("samples", 1)
    assert [d.code for d in made.diagnostics if d.code in TOLD] == ["whole_batch_loss"]


def test_whole_numbers_that_are_no_classes_count_as_samples() -> None:
    """Several labels a sample: the model gives a number for each, and no score for each class."""
    labels = torch.utils.data.TensorDataset(POINTS, (POINTS[:, :4] > 0).long())

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(output, target.float())

    (run,) = plan(dataset=labels, loss_fn=loss).experiments
    assert (run.unit, run.units_per_sample) == ("samples", 1)


def test_a_model_that_keeps_a_state_in_evaluation_is_told() -> None:
    made = plan(Remembers, dataset=Blobs(500), loss_fn=cross_entropy)
    found = {d.code: d.message for d in made.diagnostics}
    assert "keeps a state" in found["changing_loss"]
    assert not TOLD & set(found)


def test_runs_of_a_whole_batch_loss_are_judged_on_batches_as_they_were_trained_on(
    tmp_path: Path,
) -> None:
    """Towers that hardly learn guess among the 16 pairs of a batch; parts of a held-out set have fewer."""
    made = plan(Towers, dataset=PAIRS, step_fn=contrastive, hparams={"lr": 1e-12})
    (run,) = run_sweep(made, output_dir=tmp_path, progress=False)
    assert run.loss == pytest.approx(run.train_loss, abs=0.05)
    assert run.loss_se is not None
    assert 0 < run.loss_se < 0.1
    with pytest.raises(InputError, match="microbatch: expected None"):
        plan(Towers, dataset=PAIRS, step_fn=contrastive, training=TrainingConfig(microbatch=4))
    auto = plan(Towers, dataset=PAIRS, step_fn=contrastive, batch_size="auto").diagnostics
    assert "one batch_size" in next(d.action for d in auto if d.code == "whole_batch_loss")


def test_batch_norm_refuses_microbatches_too() -> None:
    def normed(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(16, width), nn.BatchNorm1d(width), nn.Linear(width, 4))

    config = TrainingConfig(microbatch=4)
    with pytest.raises(InputError, match="BatchNorm depends on which samples pass together"):
        plan(normed, dataset=Blobs(500), loss_fn=cross_entropy, training=config)
    plan(MLP, dataset=Blobs(500), loss_fn=cross_entropy, training=config)


def test_padding_in_the_mean_is_judged_alike_and_may_be_split() -> None:
    change = {"dataset": texts(0), "loss_fn": mean_of_tokens}
    (found,) = [d for d in plan(Words, **change).diagnostics if d.code in TOLD]
    assert "judged on held-out batches of 16" in found.message
    assert "-100" in found.action
    plan(Words, training=TrainingConfig(microbatch=4), **change)


def test_a_step_that_returns_a_mean_for_a_sum_is_refused() -> None:
    with pytest.raises(LossError, match=r"expected \(loss·n, n\)"):
        plan(dataset=PAIRS, step_fn=lambda model, batch: (regression(model, batch), len(batch[0])))


def likelihood(output: Tensor, y: Tensor) -> Tensor:
    """Of y under a normal density of which the model gives mean and ln σ."""
    mean, scale = output[:, :2], output[:, 2:].clamp(-5, 5)
    loss: Tensor = (scale + 0.5 * ((y[:, :2] - mean) / scale.exp()) ** 2 + 0.919).mean()
    return loss


def test_a_loss_that_falls_below_zero_is_told_before_it_is_trained() -> None:
    data = torch.utils.data.TensorDataset(POINTS, POINTS.roll(3, 1).tanh())
    codes = {d.code for d in plan(dataset=data, loss_fn=likelihood).diagnostics}
    assert "negative_loss" in codes
    for change in (
        {"dataset": PAIRS, "step_fn": noisy},
        {"dataset": Blobs(500), "loss_fn": cross_entropy},
    ):
        assert "negative_loss" not in {d.code for d in plan(**change).diagnostics}


def test_batch_norm_that_stays_in_evaluation_is_no_concern() -> None:
    class Frozen(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.inner, self.norm = nn.Linear(4, width), nn.BatchNorm1d(width)

        def train(self, mode: bool = True) -> Frozen:
            super().train(mode)
            self.norm.eval()
            return self

    assert batch_norms(ModelSpec(Frozen, "width"), 4) == []
    batch = nn.BatchNorm1d(4, track_running_stats=False)  # it sums over the batch in evaluation too
    assert batch_norms(ModelSpec(lambda width: batch.eval(), "width"), 4) == ["BatchNorm1d"]


SPEC = ModelSpec(MLP, "width")


def examined(loss: Any, cost: float, data: Any = None) -> Extent:
    split = split_data(data or Blobs(500))
    return examine(SPEC, 8, Objective(loss), split, 16, lambda size: cost)


@pytest.mark.parametrize(
    ("cost", "found"),
    [(1e5, True), (1e8, True), (1.2e8, True), (1e10, True), (1.01e10, False)],
)
def test_a_loss_that_is_no_mean_is_found_in_all_models_but_the_dearest(
    cost: float, found: bool
) -> None:
    """Four samples are looked at where they cost 4e10 FLOPs at most."""
    extent = examined(nn.CrossEntropyLoss(weight=WEIGHTS), cost)
    assert (extent.judged_on is not None) is found
    assert [d.code for d in extent.findings] == ["loss_no_mean"] * found


def test_a_dear_model_is_not_trained_to_see_whether_its_loss_falls_below_zero() -> None:
    data = torch.utils.data.TensorDataset(POINTS, POINTS.roll(3, 1).tanh())
    found = {c: [d.code for d in examined(likelihood, c, data).findings] for c in (1e5, 1e9)}
    assert found == {1e5: ["negative_loss"], 1e9: []}


def test_noise_is_put_on_trained_weights_alone() -> None:
    """Half on what a row of weights sums up, so that none keeps the zeros it began with."""
    model = MLP(400)
    for weight in model.parameters():
        nn.init.zeros_(weight)
    model.up.weight.requires_grad_(False)
    perturbed(model)
    assert not model.up.weight.any()
    assert float(model.down.weight.detach().norm(dim=1).mean()) == pytest.approx(0.5, rel=0.1)


def test_a_collation_that_masks_at_random_is_compared_with_its_own_masks() -> None:
    """Parts that were collated anew would have others, and their loss would differ."""
    rows = [torch.randint(1, 12, (8,)) for _ in range(400)]

    def collate(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
        x = torch.stack(rows)
        return x, torch.where(torch.rand(x.shape) < 0.4, x, -100)

    data = torch.utils.data.DataLoader(rows, batch_size=8, collate_fn=collate)  # type: ignore[arg-type]
    assert told(model=Words, dataset=data, loss_fn=mean_of_tokens) == []


def test_labels_of_a_model_too_large_to_be_built_are_judged_by_sight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Labels that equal the inputs are shifted by the model; what else is unknown stays as it is."""
    monkeypatch.setattr("flops_fit.plan.findings._MOST_BUILT", 1)
    ids = torch.arange(1, 9).reshape(2, 4)
    batch = {"input_ids": ids, "labels": ids.clone()}
    spec, step = ModelSpec(Words, "width"), Objective(step_fn=contrastive)
    labelled, said = settle_labels(spec, Objective(), batch, [8])
    assert labelled.shifted
    assert [d.code for d in said] == ["shifted_labels"]
    pair = (POINTS[:4], torch.zeros(4, 6, dtype=torch.long))
    assert settle_labels(spec, step, pair, [8]) == (step, ())


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float32])
def test_rounding_of_short_numbers_is_no_finding(kind: torch.dtype) -> None:
    """A class weight is one in any of them."""
    x, y = POINTS.to(kind), (POINTS[:, :4].argmax(1))
    data = torch.utils.data.TensorDataset(x, y)

    def make(width: int) -> nn.Module:
        return MLP(width).to(kind)

    assert told(model=make, dataset=data, loss_fn=cross_entropy) == []
    weighted = nn.CrossEntropyLoss(weight=WEIGHTS.to(kind))
    assert told(model=make, dataset=data, loss_fn=weighted) == ["loss_no_mean"]
