"""Models as timm and open_clip give them: a factory by name, and pairs with the loss outside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.models.interfaces import create_model
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from flops_fit import TrainingConfig, plan_sweep, run_sweep
from flops_fit.errors import InputError, ModelError

X = torch.randn(600, 8, generator=torch.Generator().manual_seed(0))
Y = X[:, :3].argmax(1)
PICTURES = torch.randn(600, 6, generator=torch.Generator().manual_seed(0))
WORDS = PICTURES[:, :3].argmax(1)[:, None] * 2 + torch.randint(
    2, (600, 5), generator=torch.Generator().manual_seed(1)
)

IMAGES: dict[str, Any] = {
    "dataset": TensorDataset(X, Y),
    "loss_fn": nn.CrossEntropyLoss(label_smoothing=0.1),
    "compute_budgets": [1e6],
    "batch_size": 8,
    "hparams": {"lr": 3e-3},
}


def test_a_factory_by_name_is_planned_and_trained(tmp_path: Path) -> None:
    kwargs = {"model_name": "residual_small", "num_classes": 3, "drop_path_rate": 0.1}
    plan = plan_sweep(create_model, "embed_dim", kwargs, sizes=[4, 8], **IMAGES)
    assert [e.flops_per_sample for e in plan.experiments] == [
        4 * 8 * w + 6 * (2 * w * w + 3 * w) for w in (4, 8)
    ]
    runs = run_sweep(plan, output_dir=tmp_path, progress=False)
    assert {run.state for run in runs} == {"completed"}
    assert max(run.loss or 9.0 for run in runs) < 1.0


def test_sizes_may_be_names_and_an_unknown_one_is_told() -> None:
    names = ["residual_tiny", "residual_small"]
    plan = plan_sweep(create_model, "model_name", {"num_classes": 3}, sizes=names, **IMAGES)
    assert [e.size for e in plan.experiments] == names
    with pytest.raises(ModelError, match=r"Unknown model \(residual_huge\)"):
        plan_sweep(create_model, "model_name", sizes=["residual_huge"], **IMAGES)


class Clip(nn.Module):
    """A dict of features and their scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 8))
        self.words, self.text = nn.Embedding(6, width), nn.Linear(width, 8)
        self.logit_scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, image: Tensor, text: Tensor) -> dict[str, Tensor]:
        features = {"image": self.image(image), "text": self.text(self.words(text).mean(1))}
        out = {f"{k}_features": functional.normalize(v, dim=-1) for k, v in features.items()}
        return {**out, "logit_scale": self.logit_scale.exp()}


def clip_loss(image_features: Tensor, text_features: Tensor, logit_scale: Tensor) -> Tensor:
    logits = logit_scale * image_features @ text_features.T
    own = torch.arange(len(logits), device=logits.device)
    there, back = (functional.cross_entropy(each, own) for each in (logits, logits.T))
    return (there + back) / 2


def step(model: Any, batch: Any) -> tuple[Tensor, int]:
    return clip_loss(**model(*batch)) * len(batch[0]), len(batch[0])


def test_pairs_are_judged_on_the_batch_that_they_are_trained_on(tmp_path: Path) -> None:
    """D counts pairs, though the second of each is text."""
    pairs = {**IMAGES, "dataset": TensorDataset(PICTURES, WORDS), "loss_fn": None, "step_fn": step}
    plan = plan_sweep(Clip, "width", sizes=[8], **pairs)
    assert "whole_batch_loss" in {d.code for d in plan.diagnostics}
    assert not {"units_of_step", "loss_no_mean"} & {d.code for d in plan.diagnostics}
    (run,) = run_sweep(plan, output_dir=tmp_path, progress=False)
    assert (run.experiment.unit, run.tokens) == ("samples", run.experiment.tokens)
    assert run.loss == pytest.approx(run.train_loss, rel=0.15)
    assert run.loss < 0.9 * float(torch.tensor(8.0).log())
    with pytest.raises(InputError, match="microbatch: expected None"):
        plan_sweep(Clip, "width", sizes=[8], training=TrainingConfig(microbatch=2), **pairs)
