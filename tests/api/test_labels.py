"""Batches of any nesting train, and a model that moves its labels itself is counted as it learns."""

from __future__ import annotations

from collections import UserDict, defaultdict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from flops_fit import plan_sweep
from flops_fit.batches import batch_length, map_tensors
from flops_fit.data import split_data
from flops_fit.objective import Objective
from tests.conftest import MLP, Blobs, cross_entropy

LENGTH, VOCABULARY = 12, 20


class Encoding(UserDict):
    """A mapping that is no dict, as a tokenizer of HuggingFace returns."""


class Pair(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


@dataclass(frozen=True)
class Labelled:
    """A sample that checks what it is made from."""

    x: torch.Tensor
    labels: torch.Tensor
    weight: float = 1.0

    def __post_init__(self) -> None:
        assert self.x.dim() == 1


class Columns:
    """Columns of one table, read as a map-style data set of HuggingFace reads them."""

    def __init__(self, columns: dict[str, Any], torch_format: bool = True) -> None:
        self.columns, self.torch_format = columns, torch_format
        self._fingerprint = "9f2c"

    def with_format(self, kind: str) -> Columns:
        return Columns(self.columns, kind == "torch")

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key: int | list[int]) -> dict[str, Any]:
        taken = {k: v[key] for k, v in self.columns.items()}
        return taken if self.torch_format else {k: v.tolist() for k, v in taken.items()}

    def __getitems__(self, keys: list[int]) -> list[dict[str, Any]]:
        batch = self[keys]
        return [{k: v[i] for k, v in batch.items()} for i in range(len(keys))]


class CausalLM(nn.Module):
    """Takes labels equal to its inputs and predicts each from those before it; its head is tied."""

    shift = True

    def __init__(self, d: int = 8) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, d)
        self.mix = nn.Linear(d, d)
        self.head = nn.Linear(d, VOCABULARY, bias=False)
        self.head.weight = self.table.weight

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor, **_: Any) -> Any:
        logits = self.head(torch.tanh(self.mix(self.table(input_ids))))
        if self.shift:
            logits, labels = logits[:, :-1], labels[:, 1:]
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return SimpleNamespace(loss=loss, logits=logits)


class ZeroHead(CausalLM):
    """Every loss is ln V before it is trained."""

    def __init__(self, d: int = 8) -> None:
        super().__init__(d)
        nn.init.zeros_(self.table.weight)


class Unshifted(CausalLM):
    shift = False


class UnshiftedZeroHead(ZeroHead):
    shift = False


class NoMask(CausalLM):
    """Knows no masked labels."""

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor, **_: Any) -> Any:
        logits = self.head(torch.tanh(self.mix(self.table(input_ids))))
        predicted = torch.log_softmax(logits[:, :-1], dim=-1)
        return SimpleNamespace(loss=-predicted.gather(-1, labels[:, 1:, None]).mean())


def tokens(n: int = 400) -> torch.Tensor:
    return torch.randint(VOCABULARY, (n, LENGTH), generator=torch.Generator().manual_seed(0))


def columns(n: int = 400, **other: Any) -> Columns:
    ids = tokens(n)
    return Columns({"input_ids": ids, "labels": ids.clone(), **other})


def causal(**changes: Any) -> dict[str, Any]:
    arguments = {
        "model_cls": CausalLM,
        "model_size_param": "d",
        "dataset": columns(),
        "compute_budgets": [2e6],
        "sizes": [4, 8],
        "batch_size": 4,
    }
    return {**arguments, **changes}


def codes(plan: Any) -> set[str]:
    return {d.code for d in plan.diagnostics}


@pytest.mark.parametrize(
    "kind",
    [
        lambda x, y: (x, y),
        lambda x, y: [x, y],
        Pair,
        lambda x, y: {"x": x, "labels": y},
        lambda x, y: Encoding({"x": x, "labels": y}),
        Labelled,
        lambda x, y: {"x": x, "labels": y, "more": Labelled(x, y)},
    ],
)
def test_samples_of_any_nesting_become_batches_of_it(kind: Any) -> None:
    blobs = Blobs(64)
    samples = [kind(*blobs[i]) for i in range(64)]
    batch = next(split_data(samples, samples)[0].batches(8, 1, 0))
    kept = type(samples[0])
    assert type(batch) is (list if kept is tuple else kept)  # torch makes a list of tuples
    assert batch_length(batch) == 8
    moved = map_tensors(batch, lambda t: t.to("meta"))
    assert type(moved) is type(batch)
    seen: list[torch.Tensor] = []
    map_tensors(moved, seen.append)
    assert len(seen) >= 2
    assert all(t.device.type == "meta" for t in seen)
    untouched: list[torch.Tensor] = []
    map_tensors(batch, untouched.append)
    assert all(t.device.type == "cpu" for t in untouched)


def test_mappings_stay_what_they_are_when_moved() -> None:
    counted = defaultdict(list, {"x": torch.ones(2)})
    doubled = map_tensors(counted, lambda t: 2 * t)
    assert type(doubled) is defaultdict
    assert doubled.default_factory is list
    assert float(doubled["x"][0]) == 2
    assert float(counted["x"][0]) == 1


def test_a_dataclass_goes_to_the_model_by_name() -> None:
    class Named(MLP):
        def forward(self, x: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor) -> Any:
            return SimpleNamespace(loss=cross_entropy(super().forward(x), labels))

    blobs = Blobs(200)
    samples = [Labelled(*blobs[i]) for i in range(200)]
    plan = plan_sweep(Named, "width", None, samples, None, [1e6], sizes=[4, 8], requires_data=True)
    assert plan.unit == "samples"
    assert plan.task is not None
    run = plan.task(plan.experiments[0])
    assert run.state == "completed"
    assert run.tokens == plan.experiments[0].tokens


@pytest.mark.parametrize("model", [CausalLM, ZeroHead, NoMask])
def test_a_model_that_shifts_its_labels_counts_one_less_in_a_row(model: type) -> None:
    plan = plan_sweep(**causal(model_cls=model))
    assert "shifted_labels" in codes(plan)
    e = plan.experiments[0]
    assert e.units_per_sample == LENGTH - 1
    assert e.tokens == e.steps * 4 * (LENGTH - 1)
    # 2 matrices, of which the tied one counts once in N: forward, and twice that backward.
    d = e.size
    assert e.params.total == VOCABULARY * d + d * d + d
    assert plan.task is not None
    run = plan.task(e)
    assert run.tokens == e.tokens
    assert run.flops == pytest.approx(e.budget, rel=0.01)


@pytest.mark.parametrize("model", [Unshifted, UnshiftedZeroHead])
def test_a_model_that_does_not_shift_counts_every_label(model: type) -> None:
    ids = tokens()
    moved = Columns({"input_ids": ids[:, :-1], "labels": ids[:, 1:].clone()})
    plan = plan_sweep(**causal(model_cls=model, dataset=moved))
    assert not codes(plan) & {"shifted_labels", "unshifted_labels"}
    assert plan.experiments[0].units_per_sample == LENGTH - 1
    told = plan_sweep(**causal(model_cls=model))
    assert "unshifted_labels" in codes(told)
    assert told.experiments[0].units_per_sample == LENGTH


def test_the_loss_on_record_is_a_mean_over_what_the_model_predicts() -> None:
    ids = tokens(60)
    labels = ids.clone()
    labels[:, 7:] = -100  # six of eleven predictions are left
    labels[::3, 4:] = -100
    held_out = Columns({"input_ids": ids, "labels": labels})
    plan = plan_sweep(**causal(eval_dataset=held_out))
    objective = plan.task.objective
    torch.manual_seed(0)
    model = CausalLM(4)
    parts = [
        objective(model, {"input_ids": i[None], "labels": t[None]})
        for i, t in zip(ids, labels, strict=True)
    ]
    total, count = sum(s.item() for s, _ in parts), sum(int(c) for _, c in parts)
    assert count == int((labels[:, 1:] != -100).sum())
    assert total / count == pytest.approx(model(ids, labels).loss.item(), rel=1e-5)


def test_the_user_says_what_is_counted() -> None:
    plan = plan_sweep(**causal(count_fn=lambda batch: 3 * len(batch["labels"])))
    assert plan.experiments[0].units_per_sample == 3
    assert "shifted_labels" not in codes(plan)


def test_a_shifted_count_is_another_run() -> None:
    assert Objective(shifted=True).fingerprint() != Objective().fingerprint()


def test_columns_train_as_they_are_and_text_columns_are_told() -> None:
    plan = plan_sweep(**causal(dataset=columns(attention_mask=torch.ones(400, LENGTH))))
    assert plan.task(plan.experiments[0]).state == "completed"
    with pytest.raises(ValueError, match="with_format"):
        plan_sweep(**causal(dataset=columns().with_format("python")))


class _Random(Blobs):
    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = super().__getitem__(i)
        return x + 0.5 * torch.randn(16), y


def test_the_held_out_loss_is_of_its_samples_as_given(sweep: dict[str, Any]) -> None:
    held_out = Blobs(200, seed=7)
    arguments = {**sweep, "dataset": _Random(), "eval_dataset": held_out}
    plan = plan_sweep(**{k: v for k, v in arguments.items() if k != "progress"})
    judged = torch.cat([x for x, _ in plan.task.held_out.in_order(64)])
    assert torch.equal(judged, held_out.x)
    assert not codes(plan) & {"augmented_held_out", "unseeded_data"}
    trained = torch.cat([x for x, _ in plan.task.data.batches(50, 80, 0)])
    assert not torch.isin(trained[:, 0], _Random().x[:, 0]).all()
    first, again = (plan.task(plan.experiments[-1]) for _ in range(2))
    assert first.loss == again.loss


def test_a_held_out_part_that_is_augmented_is_told() -> None:
    arguments: dict[str, Any] = {
        "model_cls": MLP,
        "model_size_param": "width",
        "loss_fn": cross_entropy,
        "compute_budgets": [1e6],
    }
    assert "augmented_held_out" in codes(plan_sweep(**arguments, dataset=_Random()))
    assert "augmented_held_out" not in codes(plan_sweep(**arguments, dataset=Blobs()))


def test_a_data_set_with_a_generator_of_its_own_is_told() -> None:
    class Own(Blobs):
        def __getitem__(self, i: int):
            x, y = super().__getitem__(i)
            return x + torch.randn(16, generator=GENERATOR), y

    plan = plan_sweep(MLP, "width", None, Own(400), cross_entropy, [1e6])
    assert "unseeded_data" in codes(plan)


GENERATOR = torch.Generator()


def test_batch_norm_is_told_and_other_norms_are_not() -> None:
    def normed(width: int, norm: type[nn.Module] = nn.BatchNorm1d) -> nn.Module:
        return nn.Sequential(nn.Linear(16, width), norm(width), nn.Linear(width, 4))

    def plan(**kwargs: Any) -> Any:
        return plan_sweep(normed, "width", kwargs, Blobs(), cross_entropy, [1e6])

    (found,) = [d for d in plan().diagnostics if d.code == "batch_norm"]
    assert found.severity == "warning"
    assert "1 layers of BatchNorm1d" in found.message
    assert "batch_norm" not in codes(plan(norm=nn.LayerNorm))


def test_a_split_by_groups_says_so() -> None:
    dataset = Blobs(400)
    dataset.groups = [i // 10 for i in range(400)]
    plan = plan_sweep(MLP, "width", None, dataset, cross_entropy, [1e6])
    assert any("2 of 40 groups, 20 of 400 samples" in d.message for d in plan.diagnostics)


class OwnLoss(nn.Module):
    """A language model that is given tokens by name and makes its labels of them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(VOCABULARY, width), nn.Linear(width, VOCABULARY)

    def forward(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.head(self.table(ids[:, :-1]))
        return {"loss": cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())}


def test_tokens_without_labels_are_counted_by_name_as_they_are_in_a_tuple() -> None:
    rows = tokens()
    named, plain = [{"ids": row} for row in rows], torch.utils.data.TensorDataset(rows)
    plans = [
        plan_sweep(OwnLoss, "width", dataset=data, compute_budgets=[3e7], sizes=[8], batch_size=8)
        for data in (named, plain)
    ]
    first, second = (plan.experiments[0] for plan in plans)
    assert (first.unit, first.units_per_sample, first.tokens) == ("tokens", LENGTH, second.tokens)
    assert "rows_counted" in codes(plans[0])
    assert "rows_counted" not in codes(plans[1])
    assert "units_of_batches" not in codes(plans[0])


def test_labels_of_padding_are_told() -> None:
    """D counts them, and a model that predicts padding has a lower loss."""
    ids, mask = tokens(), torch.ones(400, LENGTH, dtype=torch.int64)
    mask[:, -4:] = 0
    masked = Columns(
        {"input_ids": ids, "labels": ids.where(mask > 0, -100), "attention_mask": mask}
    )
    for kind in (CausalLM, Unshifted):
        assert "padded_labels" in codes(
            plan_sweep(**causal(model_cls=kind, dataset=columns(attention_mask=mask)))
        )
        assert "padded_labels" not in codes(plan_sweep(**causal(model_cls=kind, dataset=masked)))


def test_options_beside_the_tensors_of_a_batch_have_no_samples() -> None:
    x = torch.ones(5, 3)
    for batch in ({"return_loss": True, "x": x}, ("fast", None, x), [1.0, x]):
        assert batch_length(batch) == 5
