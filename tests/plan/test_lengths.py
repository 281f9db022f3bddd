"""Runs are as long as planned, and cost what was planned, also where samples or batches differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from flops_fit import SweepPlan, TrainingConfig, plan_sweep, run_sweep
from flops_fit.data.spec import DataSpec, split_data
from flops_fit.flops import trace_flops
from flops_fit.model import ModelSpec
from flops_fit.objective import Objective
from flops_fit.plan.counting import FlopsCounter
from flops_fit.plan.lengths import Lengths, look_at
from flops_fit.records import Experiment
from flops_fit.train import Trainer
from tests.conftest import MLP, Blobs, cross_entropy
from tests.plan.test_extent import PAIRS, Towers, contrastive

WORDS = 12
GENERATOR = torch.Generator().manual_seed(0)


def lengths(count: int, low: int, spread: float) -> list[int]:
    """Most are short, and few are long."""
    return (low + spread * torch.rand(count, generator=GENERATOR) ** 4).int().tolist()


TEXTS = [torch.randint(1, WORDS, (n,), generator=GENERATOR) for n in lengths(2000, 4, 40)]

ANSWERS = [torch.randint(1, WORDS, (n,), generator=GENERATOR) for n in lengths(2000, 2, 20)]
ROWS = torch.randint(1, WORDS, (2000, 6), generator=torch.Generator().manual_seed(1))


def padded(rows: list[Tensor], value: int = 0) -> Tensor:
    return pad_sequence(rows, batch_first=True, padding_value=value)


def attended(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.transpose(1, 2)).softmax(-1) @ y


class Reads(nn.Module):
    """Attention over one text: 4·L²·width beside what is linear in L, forward."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(WORDS, width), nn.Linear(width, WORDS, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.table(x)
        logits: Tensor = self.head(attended(h, h))
        return logits


class Unpads(Reads):
    """Only words, and no padding, pass the layer."""

    def forward(self, x: Tensor) -> Tensor:
        words = x > 0
        logits = torch.zeros(*x.shape, WORDS)
        logits[words] = self.head(self.table(x[words]))
        return logits


class Tags(Reads):
    """Each word by itself."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.table(x))
        return logits


class Translates(Reads):
    """Attention of one text over another: a product of two lengths."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        source = self.table(x)
        logits: Tensor = self.head(attended(self.table(y), attended(source, source)))
        return logits


class Graph(nn.Module):
    """Graphs of which nodes and edges are packed one after another."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.node, self.edge = nn.Linear(3, width, bias=False), nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, 1, bias=False)

    def forward(self, nodes: Tensor, edges: Tensor, graph: Tensor) -> Tensor:
        h = self.node(nodes).relu()
        h = h.index_add(0, edges[:, 1], self.edge(h[edges[:, 0]]))
        summed = torch.zeros(int(graph.max()) + 1, h.shape[1]).index_add(0, graph, h)
        out: Tensor = self.out(summed)
        return out


def graphs() -> list[tuple[Tensor, Tensor, Tensor]]:
    made = []
    for nodes, edges in zip(lengths(1500, 3, 20), lengths(1500, 4, 60), strict=True):
        ends = torch.randint(nodes, (edges, 2), generator=GENERATOR)
        made.append((torch.randn(nodes, 3, generator=GENERATOR), ends, torch.zeros(1)))
    return made


def packed(rows: list[Any]) -> tuple[Tensor, ...]:
    counts = torch.tensor([len(nodes) for nodes, _, _ in rows])
    starts = counts.cumsum(0) - counts
    edges = torch.cat([ends + start for (_, ends, _), start in zip(rows, starts, strict=True)])
    graph = torch.arange(len(rows)).repeat_interleave(counts)
    return torch.cat([r[0] for r in rows]), edges, graph, torch.stack([r[2] for r in rows])


def loader(rows: Any, collate: Any) -> Any:
    return torch.utils.data.DataLoader(rows, batch_size=8, collate_fn=collate)


def tokens(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


KINDS: dict[str, dict[str, Any]] = {
    "padded": {
        "model": Reads,
        "dataset": loader(TEXTS, lambda r: (padded(r), padded(r, -100))),
        "loss_fn": tokens,
    },
    "padding counted": {
        "model": Reads,
        "dataset": loader(TEXTS, lambda r: (padded(r), padded(r))),
        "loss_fn": tokens,
    },
    "padding left out": {
        "model": Unpads,
        "dataset": loader(TEXTS, lambda r: (padded(r), padded(r, -100))),
        "loss_fn": tokens,
        "compute_budgets": [2e7],
    },
    "two lengths": {
        "model": Translates,
        "dataset": loader(
            list(zip(TEXTS, ANSWERS, strict=True)),
            lambda r: (
                padded([x for x, _ in r]),
                padded([y for _, y in r]),
                padded([y for _, y in r], -100),
            ),
        ),
        "loss_fn": tokens,
    },
    "one row": {
        "model": Tags,
        "dataset": loader(TEXTS, lambda r: (torch.cat(r)[None], torch.cat(r)[None])),
        "loss_fn": tokens,
        "compute_budgets": [2e7],
    },
    "rows of which most are masked": {
        "model": Tags,
        "dataset": [(x, x if i % 10 > 6 else x.clone().fill_(-100)) for i, x in enumerate(ROWS)],
        "loss_fn": tokens,
        "compute_budgets": [1e7],
    },
    "graphs": {
        "model": Graph,
        "dataset": loader(graphs(), packed),
        "loss_fn": functional.mse_loss,
        "count_fn": lambda batch: len(batch[3]),
        "compute_budgets": [2e7],
    },
    "pairs": {
        "model": Towers,
        "dataset": PAIRS,
        "step_fn": contrastive,
        "batch_size": 64,
        "compute_budgets": [2e7],
    },
}


def plan(model: Any, **change: Any) -> SweepPlan:
    usual = {"compute_budgets": [8e7], "sizes": [8], "batch_size": 8, "hparams": {"lr": 3e-3}}
    return plan_sweep(model, "width", **{**usual, **change})


def exact(plan: SweepPlan, run: Experiment) -> tuple[float, float]:
    """Units and FLOPs of every batch that a run reads and that has units."""
    task: Any = plan.task
    model, units, flops = task.model.build(run.size), 0.0, 0.0
    batches = task.data.batches(run.batch_size, run.steps, run.seed)
    for batch in filter(task.objective.has_units, batches):
        units += float(task.objective.count(batch))
        flops += trace_flops(lambda b=batch: task.objective(model, b)[0], model).total  # type: ignore[misc]
    return units, flops


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_as_long_and_costs_as_much_as_planned(kind: str) -> None:
    made = plan(**KINDS[kind])
    (run,) = made.experiments
    units, flops = exact(made, run)
    assert run.tokens == pytest.approx(units, rel=1e-3)
    assert run.flops == pytest.approx(flops, rel=1e-3)
    assert run.flops == pytest.approx(run.budget, rel=0.01)
    assert float(made.flops(run.params.total)) == pytest.approx(run.flops_per_unit, rel=0.25)


def test_what_was_planned_is_on_record(tmp_path: Path) -> None:
    made = plan(**KINDS["padded"])
    (run,) = run_sweep(made, output_dir=tmp_path, progress=False)
    assert run.tokens == run.experiment.tokens
    assert run.flops == pytest.approx(run.experiment.flops, rel=1e-4)
    (told,) = [d for d in made.diagnostics if d.code == "lengths"]
    assert "4 to 43 units" in told.message


def test_a_batch_of_pairs_costs_its_closed_form() -> None:
    """Per pair two towers, without gradients of their inputs, and 3·2·4 for each of B logits."""
    for batch_size in (16, 50):
        (run,) = plan(**{**KINDS["pairs"], "batch_size": batch_size}).experiments
        towers = 2 * (6 * 20 * 8 - 2 * 16 * 8)
        assert run.flops_per_unit == pytest.approx(towers + 3 * 2 * 4 * batch_size, rel=1e-9)


def test_samples_that_are_alike_are_counted_as_ever() -> None:
    made = plan(MLP, dataset=Blobs(500), loss_fn=cross_entropy)
    (run,) = made.experiments
    assert (run.units_per_sample, run.flops_per_unit) == (1.0, 6 * 20 * 8 - 2 * 16 * 8)
    assert "lengths" not in {d.code for d in made.diagnostics}


def test_rare_long_samples_are_in_the_mean() -> None:
    """The first samples are short; the mean is that of all."""
    rows = sorted(TEXTS, key=len)
    made = plan(
        Reads,
        dataset=loader(rows, lambda r: (padded(r), padded(r, -100))),
        loss_fn=tokens,
        compute_budgets=[1e8],
    )
    mean = sum(map(len, rows)) / len(rows)
    assert made.experiments[0].units_per_sample == pytest.approx(mean, rel=0.1)


def test_branches_of_texts_have_one_batch_and_about_their_length() -> None:
    """Their schedule has one length of a step, a mean over samples in their order."""
    hparams = {"schedule": "wsd", "batch_units": 100, "warmup_units": 1000}
    change = {**KINDS["padded"], "compute_budgets": [8e7, 1.6e8], "batch_size": "auto"}
    made = plan(**change, hparams=hparams, training=TrainingConfig(branch=True))
    first, second = made.experiments
    assert first.trunk == second.trunk
    assert first.units_per_sample == second.units_per_sample
    units, _ = exact(made, second)
    assert second.tokens == pytest.approx(units, rel=0.05)


class Factored(nn.Module):
    """A weight that is a product, formed once for each batch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.left = nn.Parameter(torch.randn(16, width))
        self.right = nn.Parameter(torch.randn(width, 4))

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.left @ self.right)


@pytest.mark.parametrize("batch_size", [16, 50])
def test_what_is_computed_once_a_batch_is_shared_by_its_samples(batch_size: int) -> None:
    """Forward and for one gradient 2·16·4 a sample; of the product 3·2·16·8·4 a batch."""
    made = plan(Factored, dataset=Blobs(500), loss_fn=cross_entropy, batch_size=batch_size)
    (run,) = made.experiments
    assert run.flops_per_unit == pytest.approx(2 * 128 + 3072 / batch_size, rel=1e-9)
    assert any("not those of its samples together" in d.message for d in made.diagnostics)


class Cubed(Towers):
    """Logits of all pairs, each with all others: B³."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        pairs = super().forward(x, y)
        return pairs @ pairs


def test_a_cost_by_no_polynomial_of_the_batch_is_told() -> None:
    made = plan(Cubed, **{k: v for k, v in KINDS["pairs"].items() if k != "model"})
    assert any("grow faster than its square" in d.message for d in made.diagnostics)


def spec(rows: Any, collate: Any) -> DataSpec:
    return split_data(loader(rows, collate))[0]


def counted(batch: Any) -> int:
    return len(batch[0])


def test_three_lengths_count_as_all_numbers_of_a_sample() -> None:
    """A polynomial of three lengths would need more batches than are looked at."""
    rows = [
        (torch.ones(2 + i % 3), torch.ones(3 + i % 5), torch.ones(1 + i % 7)) for i in range(420)
    ]
    found = look_at(
        spec(rows, lambda r: tuple(padded(list(column)) for column in zip(*r, strict=True))),
        Objective(count_fn=counted),
        8,
    )
    assert found is not None
    assert len(found.varying) == 3
    batch = (torch.zeros(4, 2), torch.zeros(4, 5), torch.zeros(4, 7))
    assert found.measure(batch, 4) == (14.0,)
    assert found.row(4, (14.0,)) == [1.0, 14.0, 196.0]


def test_samples_of_other_kinds_of_tensors_have_units_and_no_lengths() -> None:
    rows = [torch.ones(6) if i % 2 else torch.ones(2, 3) for i in range(400)]
    found = look_at(
        spec(rows, lambda r: (torch.ones(len(r)), r[0])), Objective(count_fn=counted), 8
    )
    assert found is not None
    assert found.varying == ()


def test_of_a_long_run_whole_epochs_are_read() -> None:
    """So that its mean is that of the data, whatever the order."""
    rows = TEXTS[:300]
    found = look_at(
        spec(rows, lambda r: (padded(r), padded(r, -100))),
        Objective(tokens, count_fn=lambda batch: int((batch[1] != -100).sum())),
        10,
    )
    assert found is not None
    assert found.data is not None
    own = [rows[i] for i in found.data.indices[np.arange(found.data.size)]]
    units, row = found.of_run(len(own), 10**6, 0)
    assert units == pytest.approx(sum(map(len, own)) / len(own), rel=1e-9)
    assert row[0] == 1.0


def test_a_typical_batch_is_of_sixteen_epochs_of_small_data(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = TEXTS[:300]
    found = look_at(spec(rows, lambda r: (padded(r), padded(r, -100))), Objective(tokens), 10)
    assert found is not None
    assert found.data is not None
    read: list[Any] = []
    keep = Lengths._kept
    monkeypatch.setattr(Lengths, "_kept", lambda self, r: read.extend(r) or keep(self, r))
    found.typical()
    assert len(read) == 16 * found.data.size


def test_an_example_that_cannot_be_repeated_is_counted_as_it_is() -> None:
    """Nodes of several graphs, packed: their number is not that of the samples."""
    batch = packed(graphs()[:4])
    model = Graph(8)
    made = plan_sweep(
        Graph, "width", example_batch=batch, loss_fn=functional.mse_loss, sizes=[8],
        count_fn=lambda batch: len(batch[3]), compute_budgets=[1e7],
    )  # fmt: skip
    (run,) = made.experiments
    traced = trace_flops(lambda: functional.mse_loss(model(*batch[:3]), batch[3]), model)
    assert run.flops_per_unit == pytest.approx(traced.total / 4)


def test_texts_by_6nd_cost_six_flops_a_parameter_and_token() -> None:
    """Whatever their lengths, and those of a run."""
    model, objective = ModelSpec(Reads, "width"), Objective(tokens)
    found = look_at(spec(TEXTS, lambda r: (padded(r), padded(r, -100))), objective, 8)
    assert found is not None
    counter = FlopsCounter(model, objective, "6nd", "tokens", None, 1.0, lengths=found)
    for row in (found.row(8, (4.0,)), found.row(8, (40.0,))):
        assert counter.of_run(8, 20.0, np.array(row)) == 6 * (2 * WORDS * 8)


def mostly_short(seed: int = 5) -> list[Tensor]:
    """Texts of ten tokens, and one in a hundred of 200."""
    generator = torch.Generator().manual_seed(seed)
    long = torch.rand(2000, generator=generator) < 0.01
    return [ROWS[0].repeat(34)[: 200 if one else 10] for one in long]


def shifted_texts(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    return padded([r[:-1] for r in rows]), padded([r[1:] for r in rows], -100)


def tabled(width: int) -> nn.Module:
    return nn.Sequential(nn.Embedding(WORDS, width), nn.Linear(width, WORDS, bias=False))


def short_plan() -> SweepPlan:
    data = torch.utils.data.DataLoader(mostly_short(), collate_fn=shifted_texts)
    assert all(len(r) == 10 for r in split_data(data)[0].spread(32))
    return plan(tabled, dataset=data, loss_fn=tokens, compute_budgets=[1e8])


def test_long_samples_that_are_not_among_the_first_are_found_where_a_collation_pads() -> None:
    made = short_plan()
    (run,), task = made.experiments, made.task
    assert isinstance(task, Trainer)
    read = list(task.data.batches(run.batch_size, run.steps, run.seed))
    assert run.tokens == sum(int((y != -100).sum()) for _, y in read)
    assert run.flops == pytest.approx(sum(x.numel() for x, _ in read) * 6 * 8 * WORDS)
    assert "lengths" in {d.code for d in made.diagnostics}


def test_units_that_planning_did_not_see_are_noted_in_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flops_fit.plan.lengths._SECONDS", 0.0)
    made = short_plan()
    (experiment,) = made.experiments
    assert experiment.units_per_sample == 9
    run: Any = made.task(experiment)
    assert run.tokens > 1.1 * experiment.tokens
    assert any(f"{experiment.tokens:,} planned" in note for note in run.notes)
    alike = plan(MLP, dataset=Blobs(500), loss_fn=cross_entropy, compute_budgets=[1e6])
    assert alike.task(alike.experiments[0]).notes == ()
