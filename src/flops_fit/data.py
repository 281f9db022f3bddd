"""The user's data: samples by index, a held-out part, units, and a sampler that can resume.

Any map-style or iterable torch data set, DataLoader, HuggingFace data set or list of samples is
turned into a :class:`DataSpec`. Which samples a step trains on is a pure function of the seed
and the number of samples seen before, so a run is the same wherever and whenever it is made.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flops_fit.errors import DataError, InputTypeError
from flops_fit.fingerprint import digest, fingerprint_values, reference

__all__ = ["DataSpec", "check_dataset_type", "permuted", "split_data"]

HELD_OUT_SHARE = 0.05
EVAL_SAMPLES = 2_048
_SHUFFLED_AT_ONCE = 4_096
_PROBED = 16  # samples that a fingerprint reads


def check_dataset_type(dataset: Any, name: str = "dataset") -> None:
    """Refuse what can be no data set, without reading from it."""
    indexed = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if isinstance(dataset, str | bytes | Mapping) or not (indexed or hasattr(dataset, "__iter__")):
        raise InputTypeError(
            f"{name}: expected a torch Dataset, IterableDataset, DataLoader or a sequence of "
            f"samples; got {type(dataset).__name__}."
        )


def permuted(position: NDArray[np.int64], n: int, key: int) -> NDArray[np.int64]:
    """The places of ``position`` in a shuffle of range(n) chosen by ``key``.

    A Feistel network over the next even number of bits, walked until it falls below n (Black and
    Rogaway 2002), so any part of the shuffle costs the same and nothing of size n is stored.
    """
    half = max(1, ((max(n - 1, 1)).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    shift = np.uint64(half)
    round_keys = np.random.SeedSequence(key).generate_state(6, np.uint64)

    def rounds(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = x >> shift, x & mask
        for k in round_keys:
            left, right = right, left ^ (_mix(right ^ k) & mask)
        return (left << shift) | right

    out = rounds(position.astype(np.uint64))
    while (outside := out >= np.uint64(n)).any():
        out[outside] = rounds(out[outside])
    return out.astype(np.int64)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele et al. 2014): every output bit depends on every input bit."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@dataclass(frozen=True)
class AllBut:
    """The numbers 0 to n − 1 in order, but for those of the ascending ``without``.

    Indexed like an array of them; only ``without`` is stored.
    """

    n: int
    without: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def __len__(self) -> int:
        return self.n - len(self.without)

    def __getitem__(self, place: NDArray[np.int64]) -> NDArray[np.int64]:
        # The k-th number left has below it every gap g_j with g_j − j ≤ k.
        gaps = self.without - np.arange(len(self.without))
        return place + np.searchsorted(gaps, place, side="right")


@dataclass
class DataSpec:
    """Samples to draw from: map-style (``indices`` of ``dataset``) or a stream.

    Attributes
    ----------
    dataset
        What the user gave, or the data set inside the DataLoader that was given.
    indices
        The samples that belong to this part; ``None`` for a stream.
    skip, take
        Of a stream: samples left to the held-out part, and the most that are used.
    """

    dataset: Any
    collate: Callable[[list[Any]], Any]
    indices: NDArray[np.int64] | AllBut | None
    skip: int = 0
    take: int | None = None
    notes: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        """Number of samples; a stream has none to tell."""
        if self.indices is None:
            raise TypeError("a stream has no length")
        return len(self.indices)

    @property
    def size(self) -> int | None:
        """Number of samples, ``None`` for a stream."""
        return None if self.indices is None else len(self.indices)

    def fetch(self, which: Sequence[int] | NDArray[np.int64]) -> list[Any]:
        """The samples at these places of ``indices``."""
        assert self.indices is not None
        chosen = [int(i) for i in self.indices[np.asarray(which, dtype=np.int64)]]
        many = getattr(self.dataset, "__getitems__", None)
        if callable(many):
            return list(many(chosen))
        return [self.dataset[i] for i in chosen]

    def batches(self, batch_size: int, steps: int, seed: int, start: int = 0) -> Iterator[Any]:
        """``steps`` whole batches from step ``start`` on, each epoch shuffled by (seed, epoch)."""
        if self.indices is None:
            yield from self._stream_batches(batch_size, steps, start)
            return
        n = len(self.indices)
        chunk = max(1, _SHUFFLED_AT_ONCE // batch_size)
        for first in range(start, start + steps, chunk):
            count = min(chunk, start + steps - first)
            position = np.arange(first * batch_size, (first + count) * batch_size, dtype=np.int64)
            for places in _shuffled(position, n, seed).reshape(count, batch_size):
                yield self.collate(self.fetch(places))

    def _stream_batches(self, batch_size: int, steps: int, start: int) -> Iterator[Any]:
        """A stream in its own order, begun again where it ends."""
        samples = self._endless()
        for _ in range(start * batch_size):
            next(samples)
        for _ in range(steps):
            yield self.collate([next(samples) for _ in range(batch_size)])

    def _endless(self) -> Iterator[Any]:
        for epoch in itertools.count():
            set_epoch = getattr(self.dataset, "set_epoch", None)
            if callable(set_epoch):
                set_epoch(epoch)
            empty = True
            for sample in itertools.islice(iter(self.dataset), self.skip, None):
                empty = False
                yield sample
            if empty:
                raise DataError(
                    f"dataset: the stream ended within the {self.skip} samples that are held out; "
                    "give eval_dataset= or a longer stream."
                )

    def in_order(self, batch_size: int) -> Iterator[Any]:
        """Every sample once, in order, the last batch as short as it comes."""
        if self.indices is None:
            stop = None if self.take is None else self.skip + self.take
            samples = itertools.islice(iter(self.dataset), self.skip, stop)
            while chunk := list(itertools.islice(samples, batch_size)):
                yield self.collate(chunk)
            return
        for start in range(0, len(self.indices), batch_size):
            stop_at = min(start + batch_size, len(self.indices))
            yield self.collate(self.fetch(range(start, stop_at)))

    def first_batch(self, batch_size: int) -> Any:
        """The first samples as one batch, checked to hold tensors.

        Raises
        ------
        DataError
            There are no samples, or they hold text or lists that no model takes.
        """
        if self.indices is None:
            samples = list(itertools.islice(iter(self.dataset), self.skip, self.skip + batch_size))
        else:
            samples = self.fetch(range(min(batch_size, len(self.indices))))
        if not samples:
            raise DataError("dataset: expected at least one sample; it is empty.")
        _check_sample(samples[0], self.dataset)
        try:
            return self.collate(samples)
        except (TypeError, RuntimeError) as error:
            raise DataError(
                f"dataset: its samples do not make a batch ({error}). Pad them to one shape, or "
                "give a DataLoader with a collate_fn."
            ) from error

    def groups(self) -> NDArray[Any] | None:
        """Which document or subject each sample is of, where the data set says so."""
        groups = getattr(self.dataset, "groups", None)
        if groups is None or self.indices is None:
            return None
        return np.asarray(groups)[self.indices[np.arange(len(self.indices))]]

    def fingerprint(self) -> str:
        """A hash of the kind, length and a spread of samples."""
        if self.indices is None:
            samples = list(itertools.islice(iter(self.dataset), self.skip, self.skip + _PROBED))
            places: list[int] = []
        else:
            places = np.unique(np.linspace(0, len(self.indices) - 1, _PROBED).astype(int)).tolist()
            with _seeded():
                samples = self.fetch(places)
        own = getattr(self.dataset, "_fingerprint", "")  # HuggingFace's hash of all content
        parts = [reference(type(self.dataset)), str(self.size), str(self.skip), str(own)]
        kept = self.indices.without if isinstance(self.indices, AllBut) else self.indices
        chosen = b"" if kept is None else np.ascontiguousarray(kept).tobytes()
        return digest([*parts, chosen, *(fingerprint_values(s) for s in samples)])


@contextmanager
def _seeded() -> Iterator[None]:
    """Let random augmentation give the same samples each time; the generators go on as they were.

    Transforms draw from the global generators of torch, NumPy or Python, so it is those.
    """
    import torch

    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global one
    with torch.random.fork_rng(devices=[]):
        try:
            random.seed(0)
            np.random.seed(0)  # noqa: NPY002 - the global one
            torch.manual_seed(0)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002 - the global one


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
        return DataSpec(
            train.dataset, train.collate, None, skip=EVAL_SAMPLES // 4, notes=(note,)
        ), held_out
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
        note = f"{count} of {len(names)} groups are held out."
    else:
        held = np.sort(permuted(np.arange(want, dtype=np.int64), n, 0))
        note = (
            f"{want} of {n} samples, drawn at random, are held out; where samples resemble each "
            "other (pieces of one text), give eval_dataset= for a clean split."
        )
    kept = AllBut(n, held)
    return (
        DataSpec(train.dataset, train.collate, kept, notes=(*train.notes, note)),
        DataSpec(train.dataset, train.collate, held),
    )


def _spec(dataset: Any, name: str) -> DataSpec:
    from torch.utils.data import DataLoader, IterableDataset, default_collate

    check_dataset_type(dataset, name)
    collate: Callable[[list[Any]], Any] = default_collate
    notes: tuple[str, ...] = ()
    if isinstance(dataset, DataLoader):
        _check_sampler(dataset, name)
        notes = (
            f"Of the DataLoader given as {name}, its data set and collate_fn are used; batch size and "
            "order are the run's own.",
        )
        collate = dataset.collate_fn or default_collate
        dataset = dataset.dataset
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        return DataSpec(dataset, collate, None, notes=notes)
    n = len(dataset)
    if n == 0:
        raise DataError(f"{name}: expected at least one sample; it is empty.")
    return DataSpec(dataset, collate, AllBut(n), notes=notes)


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


def _shuffled(position: NDArray[np.int64], n: int, seed: int) -> NDArray[np.int64]:
    epochs = position // n
    out = np.empty_like(position)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        out[here] = permuted(position[here] % n, n, _key(seed, int(epoch)))
    return out


def _key(seed: int, epoch: int) -> int:
    return (seed % (1 << 64)) * (1 << 32) + epoch


def _check_sample(sample: Any, dataset: Any) -> None:
    bad = _not_numeric(sample, "sample")
    if not bad:
        return
    hint = "Return tensors from __getitem__, or give a DataLoader with a collate_fn."
    if hasattr(dataset, "with_format"):
        hint = 'Format it first: dataset.with_format("torch", columns=[...]).'
    raise DataError(f"dataset: expected samples of tensors or numbers; got {bad}. {hint}")


def _not_numeric(value: Any, where: str) -> str:
    """The first leaf that cannot become a tensor, in words; empty where there is none."""
    if isinstance(value, str | bytes):
        return f"text in {where} ({value[:30]!r})"
    if isinstance(value, Mapping):
        items = [(f"{where}[{k!r}]", v) for k, v in value.items()]
    elif isinstance(value, tuple):
        items = [(f"{where}[{i}]", v) for i, v in enumerate(value)]
    elif isinstance(value, list):
        return f"a list of {len(value)} in {where}"
    elif value is None:
        return f"None in {where}"
    else:
        return ""
    return next((bad for w, v in items if (bad := _not_numeric(v, w))), "")
