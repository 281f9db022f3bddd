"""Streams that end: they are counted, and what is read again is on record."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from flops_fit import plan_sweep
from flops_fit.data.spec import split_data
from flops_fit.plan.sweep_plan import SweepPlan


class Ends(IterableDataset):  # type: ignore[type-arg]
    """Samples x → Σ x; 512 of them are held out."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        g = torch.Generator().manual_seed(1)
        for _ in range(self.n):
            x = torch.randn(4, generator=g)
            yield x, x.sum(0, keepdim=True)


class Declares(Ends):
    def __len__(self) -> int:
        return self.n


class Endless(Ends):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield torch.ones(4), torch.ones(1)


def plan_of(stream: Any) -> SweepPlan:
    def make(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 1))

    return plan_sweep(
        make,
        "width",
        dataset=stream,
        loss_fn=nn.functional.mse_loss,
        sizes=[8],
        compute_budgets=[2e5],
        batch_size=8,
        hparams={"lr": 1e-3},
    )


def repeats(plan: SweepPlan) -> list[str]:
    return [d.severity for d in plan.diagnostics if d.code == "repeated_data"]


@pytest.mark.parametrize("kind", [Ends, Declares])
def test_a_stream_that_ends_has_epochs(kind: Any) -> None:
    plan = plan_of(kind(612))
    (experiment,) = plan.experiments
    samples = experiment.steps * 8
    assert experiment.epochs == samples / 100
    assert repeats(plan) == ["warning"]
    run = plan.task(experiment)
    assert (run.epochs, run.unique_tokens, run.state) == (samples / 100, 100, "completed")


def test_a_stream_that_does_not_end_has_none() -> None:
    plan = plan_of(Endless(0))
    assert plan.experiments[0].epochs is None
    assert repeats(plan) == []


@pytest.mark.parametrize("workers", [0, 1])
def test_a_restart_that_planning_did_not_see_is_noted_in_the_run(
    monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr("flops_fit.data.spec._COUNTING_SECONDS", 0.0)
    plan = plan_of(DataLoader(Ends(612), num_workers=workers))
    (experiment,) = plan.experiments
    assert experiment.epochs is None
    run = plan.task(experiment)
    assert run.experiment.id == experiment.id
    assert run.epochs == experiment.steps * 8 / 100
    assert any("begun again after 100 samples" in note for note in run.notes)


def test_what_a_stream_declares_counts_where_it_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flops_fit.data.spec._COUNTING_SECONDS", 0.0)
    assert split_data(Declares(612))[0].count() == 100
    assert split_data(Ends(612))[0].count() is None


def test_the_length_of_a_stream_changes_no_id(monkeypatch: pytest.MonkeyPatch) -> None:
    known = plan_of(Ends(612)).experiments[0]
    monkeypatch.setattr("flops_fit.data.spec._COUNTING_SECONDS", 0.0)
    assert plan_of(Ends(612)).experiments[0].id == known.id


@pytest.mark.parametrize("declares", [False, True])
def test_a_data_set_of_torch_that_is_only_iterated_is_a_stream(declares: bool) -> None:
    """torch's Dataset has an indexing that raises."""

    class Iterated(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __iter__(self) -> Any:
            yield from torch.arange(600)

    if declares:
        Iterated.__len__ = lambda self: 600  # type: ignore[attr-defined]
    train, held_out = split_data(Iterated())
    assert train.size is None
    assert len(list(held_out.in_order(64))) == 8
