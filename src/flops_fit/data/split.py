"""What is trained on and what is held out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from flops_fit.data.reading import collate as stacked
from flops_fit.data.shuffle import AllBut, permuted
from flops_fit.data.spec import DataSpec
from flops_fit.errors import DataError, InputTypeError

HELD_OUT_SHARE = 0.05
EVAL_SAMPLES = 2_048


def check_dataset_type(dataset: Any, name: str = "dataset") -> None:
    """Refuse what can be no data set, without reading from it."""
    indexed = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if isinstance(dataset, str | bytes | Mapping) or not (indexed or hasattr(dataset, "__iter__")):
        raise InputTypeError(
            f"{name}: expected a torch Dataset, IterableDataset, DataLoader or a sequence of "
            f"samples; got {type(dataset).__name__}."
        )


def split_data(dataset: Any, eval_dataset: Any = None) -> tuple[DataSpec, DataSpec]:
    """The part to train on and the fixed held-out part.

    Without ``eval_dataset`` 5 % of the samples are held out, at most 2,048: whole groups where the
    data set has ``groups``, else samples drawn evenly at random, or the first ones of a stream.
    """
    train = _spec(dataset, "dataset")
    if eval_dataset is not None:
        held_out = _spec(eval_dataset, "eval_dataset")
        if held_out.indices is None:
            return train, DataSpec(held_out.dataset, held_out.collate, None, take=EVAL_SAMPLES)
        places = np.linspace(0, len(held_out) - 1, min(len(held_out), EVAL_SAMPLES)).astype(
            np.int64
        )
        return train, DataSpec(held_out.dataset, held_out.collate, held_out.indices[places])
    if train.indices is None:
        held_out = DataSpec(train.dataset, train.collate, None, take=EVAL_SAMPLES // 4)
        note = f"The first {held_out.take} samples of the stream are held out."
        return replace(train, skip=EVAL_SAMPLES // 4, notes=(*train.notes, note)), held_out
    return _split_indices(train)


def _split_indices(train: DataSpec) -> tuple[DataSpec, DataSpec]:
    n = len(train)
    if n < 2:
        raise DataError(
            f"dataset: expected at least 2 samples, one to train on and one held out; it has {n}."
        )
    want = max(1, min(EVAL_SAMPLES, int(n * HELD_OUT_SHARE)))
    groups = train.groups()
    if groups is not None and len(np.unique(groups)) > 1:
        names, member = np.unique(groups, return_inverse=True)
        order = permuted(np.arange(len(names), dtype=np.int64), len(names), 0)
        enough = int(np.searchsorted(np.cumsum(np.bincount(member)[order]), want, side="right"))
        count = min(max(1, enough), len(names) - 1)
        held = np.flatnonzero(np.isin(member, order[:count]))
        note = (
            f"The data set says by its groups which samples belong together: {count} of {len(names)} "
            f"groups, {len(held)} of {n} samples, are held out whole."
        )
    else:
        held = np.sort(permuted(np.arange(want, dtype=np.int64), n, 0))
        note = (
            f"{want} of {n} samples, drawn at random, are held out; where samples resemble each "
            "other (pieces of one text), give eval_dataset= for a clean split."
        )
    kept = AllBut(n, held)
    return (
        replace(train, indices=kept, notes=(*train.notes, note)),
        DataSpec(train.dataset, train.collate, held),
    )


def _spec(dataset: Any, name: str) -> DataSpec:
    from torch.utils.data import DataLoader, IterableDataset

    check_dataset_type(dataset, name)
    collate: Callable[[list[Any]], Any] = stacked
    notes: tuple[str, ...] = ()
    workers: int | None = None
    if isinstance(dataset, DataLoader):
        _check_sampler(dataset, name)
        notes = (
            f"Of the DataLoader given as {name}, its data set and collate_fn are used; batch size and "
            "order are the run's own.",
        )
        collate = _own_collate(dataset)
        workers = dataset.num_workers or None  # 0 is a DataLoader's default, and nobody's wish
        dataset = dataset.dataset
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        return DataSpec(dataset, collate, None, notes=notes, workers=workers)
    n = len(dataset)
    if n == 0:
        raise DataError(f"{name}: expected at least one sample; it is empty.")
    return DataSpec(dataset, collate, AllBut(n), notes=notes, workers=workers)


def _check_sampler(loader: Any, name: str) -> None:
    """Refuse a DataLoader whose own sampler would be lost."""
    from torch.utils.data import IterableDataset, RandomSampler, SequentialSampler

    if isinstance(loader.dataset, IterableDataset):
        return
    usual = isinstance(loader.sampler, RandomSampler | SequentialSampler)
    if loader.batch_size is None or not usual:
        raise DataError(
            f"{name}: the DataLoader has a sampler of its own, which would be lost: runs draw their "
            "samples themselves, to be repeatable. Give its data set instead, arranged as it should "
            "be sampled."
        )


def _own_collate(loader: Any) -> Callable[[list[Any]], Any]:
    """The loader's collate_fn, where it is one that somebody chose."""
    from torch.utils.data import default_collate

    chosen: Callable[[list[Any]], Any] | None = loader.collate_fn
    return stacked if chosen is None or chosen is default_collate else chosen
