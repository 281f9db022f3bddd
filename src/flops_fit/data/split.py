"""Which samples are trained on and which are held out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from flops_fit.data.reading import Collate, collate
from flops_fit.data.spec import AllBut, DataSpec, permuted
from flops_fit.errors import DataError, InputTypeError

EVAL_SAMPLES = 2_048
_EVAL_SHARE = 0.05
_EVAL_STREAM = EVAL_SAMPLES // 4


def check_dataset_type(dataset: Any, name: str = "dataset") -> None:
    """Refuse what cannot be a data set, without reading from it."""
    indexed = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if isinstance(dataset, str | bytes | Mapping) or not (indexed or hasattr(dataset, "__iter__")):
        raise InputTypeError(
            f"{name}: expected a torch Dataset, IterableDataset, DataLoader or a sequence of "
            f"samples; got {type(dataset).__name__}."
        )


def split_data(dataset: Any, eval_dataset: Any = None) -> tuple[DataSpec, DataSpec]:
    """The part to train on and the fixed held-out part.

    Without ``eval_dataset`` 5 % of the samples are held out, at most 2,048: whole groups if the
    data set has ``groups``, else samples drawn evenly at random, or the first ones of a stream.
    """
    train = _spec(dataset, "dataset")
    if eval_dataset is not None:
        held_out = _spec(eval_dataset, "eval_dataset")
        if held_out.indices is None:
            return train, DataSpec(held_out.dataset, held_out.collate, None, take=EVAL_SAMPLES)
        spread = np.linspace(0, len(held_out) - 1, min(len(held_out), EVAL_SAMPLES))
        indices = held_out.indices[spread.astype(np.int64)]
        return train, DataSpec(held_out.dataset, held_out.collate, indices)
    if train.indices is None:
        held_out = DataSpec(train.dataset, train.collate, None, take=_EVAL_STREAM)
        note = f"The first {_EVAL_STREAM} samples of the stream are held out."
        return replace(train, skip=_EVAL_STREAM, notes=(*train.notes, note)), held_out
    return _split_indices(train)


def _split_indices(train: DataSpec) -> tuple[DataSpec, DataSpec]:
    n = len(train)
    if n < 2:
        raise DataError(
            f"dataset: expected at least 2 samples, one to train on and one held out; it has {n}."
        )
    count = max(1, min(EVAL_SAMPLES, int(n * _EVAL_SHARE)))
    groups = train.groups()
    if groups is not None and len(np.unique(groups)) > 1:
        names, member = np.unique(groups, return_inverse=True)
        order = permuted(np.arange(len(names), dtype=np.int64), len(names), 0)
        sizes = np.cumsum(np.bincount(member)[order])
        chosen = int(np.searchsorted(sizes, count, side="right"))
        chosen = min(max(1, chosen), len(names) - 1)
        held = np.flatnonzero(np.isin(member, order[:chosen]))
        note = (
            f"The data set has groups: {chosen} of {len(names)} groups, {len(held)} of {n} samples, "
            "are held out whole."
        )
    else:
        held = np.sort(permuted(np.arange(count, dtype=np.int64), n, 0))
        note = (
            f"{count} of {n} samples, drawn at random, are held out; if samples resemble each "
            "other (pieces of one text), give eval_dataset= for a clean split."
        )
    trained = replace(train, indices=AllBut(n, held), notes=(*train.notes, note))
    return trained, DataSpec(train.dataset, train.collate, held)


def _spec(dataset: Any, name: str) -> DataSpec:
    from torch.utils import data

    check_dataset_type(dataset, name)
    join: Collate = collate
    notes: tuple[str, ...] = ()
    workers: int | None = None
    if isinstance(dataset, data.DataLoader):
        usual = isinstance(dataset.sampler, data.RandomSampler | data.SequentialSampler)
        streams = isinstance(dataset.dataset, data.IterableDataset)
        if not streams and (not usual or dataset.batch_size is None):
            raise DataError(
                f"{name}: the DataLoader has a sampler of its own, which would be lost: runs draw their "
                "samples themselves, to be repeatable. Give its data set, arranged as it should be sampled."
            )
        notes = (
            f"The DataLoader given as {name} contributes its data set and collate_fn; batch size and "
            "order are the run's own.",
        )
        if dataset.collate_fn not in (None, data.default_collate):
            join = dataset.collate_fn
        workers = dataset.num_workers or None  # 0 is a DataLoader's default, not a choice
        dataset = dataset.dataset
    if isinstance(dataset, data.IterableDataset) or not hasattr(dataset, "__getitem__"):
        return DataSpec(dataset, join, None, notes=notes, workers=workers)
    n = len(dataset)
    if n == 0:
        raise DataError(f"{name}: expected at least one sample; it is empty.")
    return DataSpec(dataset, join, AllBut(n), notes=notes, workers=workers)
