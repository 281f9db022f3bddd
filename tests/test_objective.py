"""A loss is a sum over counted units, for every form of batch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from flops_fit.batches import batch_length, map_tensors, tensors_of
from flops_fit.errors import InputTypeError, LossError
from flops_fit.fingerprint import fingerprint_values
from flops_fit.objective import Objective, check_loss
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


def test_the_one_scalar_of_a_dict_is_its_loss_and_several_are_named() -> None:
    one = {"logits": torch.ones(2, 4), "total": torch.tensor(2.0)}
    batch = (torch.zeros(2, 16), torch.zeros(2, dtype=torch.int64))
    total, count = Objective()(lambda x: one, batch)
    assert (float(total), int(count)) == (4.0, 2)
    with pytest.raises(LossError, match="the scalars total, kl: if one optimizer trains their sum"):
        Objective()(lambda x: {**one, "kl": torch.tensor(1.0)}, batch)


def test_a_model_without_loss_and_no_loss_fn_is_told() -> None:
    with pytest.raises(LossError, match="carries no .loss"):
        Objective()(MLP(), (torch.zeros(2, 16), torch.zeros(2, dtype=torch.int64)))


def test_step_fn_replaces_the_rest() -> None:
    assert Objective(step_fn=lambda model, batch: (3.0, 2))(None, None) == (3.0, 2)


def test_count_fn_says_what_is_counted() -> None:
    batch = (torch.zeros(2, 16), torch.zeros(2, dtype=torch.int64))
    assert Objective(cross_entropy, count_fn=lambda b: 2 * len(b[0])).count(batch) == 4


@pytest.mark.parametrize("kind", [torch.uint8, torch.uint16, torch.bool])
def test_targets_that_cannot_be_minus_100_all_count(kind: torch.dtype) -> None:
    """156 and 65436 are −100 wrapped to one byte and to two."""
    targets = torch.tensor([[156, 65436, 1]], dtype=torch.int32).to(kind)
    assert int(Objective(cross_entropy).count((torch.zeros(1, 3), targets))) == 3


def test_labels_of_bytes_show_whether_a_model_shifts_them() -> None:
    class Shifting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(256, 256)

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> SimpleNamespace:
            logits, wanted = self.table(x.long())[:, :-1], labels[:, 1:].long()
            return SimpleNamespace(loss=cross_entropy(logits.flatten(0, 1), wanted.flatten()))

    rows = torch.full((2, 6), 156, dtype=torch.uint8)
    batch = {"x": rows, "labels": rows}
    assert Objective().shifts(Shifting(), batch) is True
    assert int(Objective(shifted=True).count(batch)) == 10


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_a_loss_in_short_numbers_is_summed_in_long_ones(kind: torch.dtype) -> None:
    """65,520 is infinite in float16, and 257 units are 256 in bfloat16."""
    targets = torch.zeros(1, 30_001, dtype=torch.int64)
    mean = torch.tensor(3.0, dtype=kind)
    total, count = Objective(lambda output, targets: mean)(lambda x: x, (targets, targets))
    assert (float(total), int(count)) == (90_003, 30_001)


def test_rows_of_whole_numbers_without_labels_are_counted_as_in_a_tuple() -> None:
    objective, rows = Objective(), torch.zeros(3, 7, dtype=torch.int64)
    for batch in ({"ids": rows}, {"mask": rows.bool(), "ids": rows}, (rows,)):
        assert (int(objective.count(batch)), objective.unit(batch)) == (21, "tokens")
    images, flags = torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)
    others: list[Any] = [{"x": images}, {"ids": rows, "y": flags}, {"ids": rows, "x": rows.float()}]
    for batch in (*others, {"ids": rows, "more": rows[:, :2]}, {"mask": rows.bool()}):
        assert (int(objective.count(batch)), objective.unit(batch)) == (3, "samples")
    assert Objective(cross_entropy).count({"ids": rows}) == 3
    assert objective.rows_counted({"mask": rows.bool(), "ids": rows}) == "ids"
    assert not objective.rows_counted((rows,))
    assert not objective.rows_counted({"ids": rows, "labels": rows})
    assert not Objective(count_fn=len).rows_counted({"ids": rows})


def test_a_column_of_labels_is_of_samples() -> None:
    batch = (torch.zeros(5, 3), torch.zeros(5, 1, dtype=torch.int64))
    assert (int(Objective(cross_entropy).count(batch)), Objective().unit(batch)) == (5, "samples")


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


class Graphs:
    """Two graphs of three nodes each, with the interface of PyG's batches."""

    def __init__(self) -> None:
        self.store = {"x": torch.ones(6, 2), "y": torch.zeros(2)}

    def __copy__(self) -> Graphs:
        other = Graphs()
        other.store = dict(self.store)
        return other

    def __len__(self) -> int:
        return 2

    def detach(self) -> Graphs:
        return self.apply(torch.Tensor.detach)

    def to(self, device: str) -> Graphs:
        return self.apply(lambda t: t.to(device))

    def apply(self, change: Any) -> Graphs:
        self.store = {name: change(t) for name, t in self.store.items()}
        return self

    def to_dict(self) -> dict[str, Any]:
        return self.store


class Fields:
    def __init__(self) -> None:
        self.x, self.name = torch.ones(3), "a"


def test_batches_that_are_objects_are_changed_as_copies() -> None:
    graphs, fields = Graphs(), Fields()
    assert map_tensors(graphs, lambda t: t.to("meta")).store["x"].is_meta
    assert not graphs.store["x"].is_meta
    assert [len(t) for t in tensors_of(graphs)] == [6, 2]
    assert Objective(cross_entropy).count(graphs) == 2
    assert float(map_tensors(fields, lambda t: 2 * t).x[0]) == 2
    assert float(fields.x[0]) == 1
    changed = Graphs()
    changed.store["x"] = torch.zeros(6, 2)
    assert fingerprint_values(changed) != fingerprint_values(graphs)


def test_a_packed_sequence_keeps_its_sizes_on_the_cpu() -> None:
    packed = torch.nn.utils.rnn.pack_sequence([torch.ones(3, 2), torch.ones(2, 2)])
    moved = map_tensors(packed, lambda t: t.to("meta"))
    assert moved.data.is_meta
    assert not moved.batch_sizes.is_meta


def test_a_nested_tensor_shows_its_values() -> None:
    ragged = torch.nested.nested_tensor([torch.ones(3, 2), torch.ones(2, 2)], layout=torch.jagged)
    assert tensors_of([ragged])[0].shape == (5, 2)


def test_samples_are_those_of_the_targets() -> None:
    """The first tensor of a batch of graphs holds nodes; complex targets are no classes."""
    nodes, edges = torch.ones(9, 2), torch.zeros(2, 5, dtype=torch.int64)
    assert Objective(cross_entropy).count((nodes, edges, torch.zeros(3, 1))) == 3
    assert Objective(cross_entropy).count((nodes, torch.zeros(9, 4, dtype=torch.cfloat))) == 9
    boxes = [{"boxes": torch.ones(n, 4)} for n in (3, 1)]
    for images in ([torch.ones(3, 8, 8)] * 2, (torch.ones(3, 8, 8),) * 2):
        assert Objective(cross_entropy).count((images, type(images)(boxes))) == 2
    named = ({"x": torch.ones(5, 3)}, {"y": torch.ones(5)})
    assert Objective(cross_entropy).count(named) == 5


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
