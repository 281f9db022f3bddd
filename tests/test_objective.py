"""A loss is a sum over counted units, for every form of batch."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from flops_fit.errors import InputTypeError, LossError
from flops_fit.objective import Objective, batch_length, check_loss, map_tensors
from tests.conftest import MLP, cross_entropy


def test_sums_over_parts_equal_the_sum_over_the_whole() -> None:
    model, x = MLP(), torch.randn(12, 16)
    y = torch.randint(4, (12,))
    y[3:7] = -100
    objective = Objective(cross_entropy)
    total, count = objective(model, (x, y))
    parts = [objective(model, (x[a:b], y[a:b])) for a, b in ((0, 5), (5, 8), (8, 12))]
    assert int(count) == 8 == sum(int(c) for _, c in parts)
    assert total.item() == pytest.approx(sum(t.item() for t, _ in parts), rel=1e-5)


def test_float_targets_count_samples() -> None:
    batch = (torch.zeros(5, 3), torch.zeros(5, 2))
    assert Objective(nn.functional.mse_loss).count(batch) == 5
    assert Objective(nn.functional.mse_loss).unit(batch) == "samples"


def test_sequences_of_labels_are_tokens_and_single_labels_samples() -> None:
    objective = Objective(cross_entropy)
    assert objective.unit((torch.zeros(2, 8), torch.zeros(2, 8, dtype=torch.int64))) == "tokens"
    assert objective.unit((torch.zeros(2, 8), torch.zeros(2, dtype=torch.int64))) == "samples"
    assert objective.unit(None, SimpleNamespace(unit="patches")) == "patches"


def test_a_dict_goes_in_by_name_and_its_loss_comes_out_of_the_model() -> None:
    def model(x, labels):
        return SimpleNamespace(loss=(x.mean() - labels.float().mean()) ** 2)

    batch = {"x": torch.ones(4), "labels": torch.zeros(4, dtype=torch.int64)}
    total, count = Objective()(model, batch)
    assert (float(total), int(count)) == (4.0, 4)


def test_a_model_without_loss_and_no_loss_fn_is_told() -> None:
    with pytest.raises(LossError, match="carries no .loss"):
        Objective()(MLP(), (torch.zeros(2, 16), torch.zeros(2, dtype=torch.int64)))


def test_step_fn_replaces_the_rest() -> None:
    assert Objective(step_fn=lambda model, batch: (3.0, 2))(None, None) == (3.0, 2)


def test_count_fn_says_what_is_counted() -> None:
    batch = (torch.zeros(2, 16), torch.zeros(2, dtype=torch.int64))
    assert Objective(cross_entropy, count_fn=lambda b: 2 * len(b[0])).count(batch) == 4


@pytest.mark.parametrize("name", ["loss_fn", "count_fn", "step_fn"])
def test_what_cannot_be_called_is_a_type_error(name: str) -> None:
    with pytest.raises(InputTypeError, match=f"{name}: expected a callable"):
        Objective(**{name: 3})


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (1.5, "got float"),
        (torch.zeros(3, requires_grad=True), r"shape \(3,\)"),
        (torch.zeros(()), "no gradient"),
    ],
)
def test_an_untrainable_loss_is_told(loss: object, words: str) -> None:
    with pytest.raises(LossError, match=words):
        check_loss(loss)


def test_tensors_are_changed_in_any_nesting() -> None:
    nested = {"a": [torch.ones(2), (torch.ones(1), "x")], "b": 3}
    doubled = map_tensors(nested, lambda t: 2 * t)
    assert float(doubled["a"][1][0]) == 2
    assert doubled["a"][1][1] == "x"
    assert doubled["b"] == 3
    assert batch_length(nested) == 2


def test_the_fingerprint_follows_the_loss() -> None:
    def other(logits, targets):
        return nn.functional.cross_entropy(logits, targets, label_smoothing=0.1)

    assert Objective(cross_entropy).fingerprint() == Objective(cross_entropy).fingerprint()
    assert Objective(cross_entropy).fingerprint() != Objective(other).fingerprint()
