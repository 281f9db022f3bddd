"""Which samples are trained on, in an order that is a function of the seed, and which are held out."""

import functools
import itertools
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flops_fit import rng
from flops_fit.batches import batch_length, sample_axes, split_batch
from flops_fit.data import reading
from flops_fit.data.order import AllBut, permuted, sample_keys, shuffled
from flops_fit.data.reading import Collate, Reader, StreamReader
from flops_fit.data.streams import Order, begin, order_of
from flops_fit.errors import DataError, InputTypeError
from flops_fit.fingerprint import digest, fingerprint_values, reference
from flops_fit.records import Findings

EVAL_SAMPLES = 2_048
_in_words = Findings(Path(__file__).with_name("notes.toml"))
_EVAL_SHARE = 0.05
_SHUFFLED_AT_ONCE = 4_096
_COUNTING_SECONDS = 0.5  # for which a stream is read to see whether it ends
_PROBED = 16  # samples that a fingerprint reads


@dataclass
class DataSpec:
    """Samples of a data set at ``indices``, or of a stream where these are ``None``.

    A stream's first ``skip`` are held out, at most ``take`` used; ``order`` says what the first depend on.
    ``workers`` are the user's DataLoader's.
    """

    dataset: Any
    collate: Collate
    indices: NDArray[np.int64] | AllBut | None
    skip: int = 0
    take: int | None = None
    notes: tuple[str, ...] = field(default=())
    workers: int | None = None
    order: Order = "fixed"
    pass_length: int | None = None  # samples that a stream had when it was begun again

    @property
    def size(self) -> int | None:
        """Number of samples, ``None`` for a stream."""
        return None if self.indices is None else len(self.indices)

    def count(self) -> int | None:
        """Samples in one pass; of a stream those that half a second reads, else what it declares."""
        if self.indices is not None:
            return len(self.indices)
        end, count = time.perf_counter() + _COUNTING_SECONDS, 0
        with rng.kept():
            for _ in self._once():
                count += 1
                if time.perf_counter() > end:
                    declares = hasattr(self.dataset, "__len__")
                    return max(1, len(self.dataset) - self.skip) if declares else None
        return count or None

    def batches(
        self,
        batch_size: int,
        steps: int,
        seed: int,
        start: int = 0,
        *,
        share: tuple[int, int] | None = None,
        workers: int = 0,
        pin: bool = False,
    ) -> Generator[Any]:
        """``steps`` whole batches from step ``start`` on, each epoch shuffled by (seed, epoch).

        ``share`` is the slice of each batch to return, ``None`` where it is empty. ``workers`` processes read
        ahead, one of a stream; ``pin`` puts batches into page-locked memory for CUDA.
        """
        if self.indices is None:
            epochs = partial(self._endless, seed)
            stream = StreamReader(epochs, self.collate, batch_size, seed, share)

            def make(step: int) -> tuple[Any, int | None]:
                return stream.batch(step), self.pass_length

            every = range(start, start + steps)
            try:
                for batch, self.pass_length in reading.read_ahead(
                    make, every, min(workers, 1), pin
                ):
                    yield batch
            finally:
                begin(self.dataset)
            return
        reader = Reader(self.dataset, self.collate)
        items = self._order(batch_size, steps, seed, start, share or (0, batch_size))
        yield from reading.read_ahead(lambda item: reader.batch(*item), items, workers, pin)

    def _order(
        self, batch_size: int, steps: int, seed: int, start: int, share: tuple[int, int]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint64]]]:
        """The indices of a share of each step's samples, and the keys of their randomness."""
        assert self.indices is not None
        n = len(self.indices)
        chunk = max(1, _SHUFFLED_AT_ONCE // batch_size)
        for first in range(start, start + steps, chunk):
            count = min(chunk, start + steps - first)
            position = np.arange(first * batch_size, (first + count) * batch_size, dtype=np.int64)
            indices = self.indices[shuffled(position, n, seed)].reshape(count, batch_size)
            keys = sample_keys(position % n, seed, position // n).reshape(count, batch_size)
            yield from zip(indices[:, slice(*share)], keys[:, slice(*share)], strict=True)

    def _endless(self, seed: int) -> Iterator[Any]:
        """A stream in its own order, begun again at its end."""
        for epoch in itertools.count():
            begin(self.dataset, 0 if self.order == "by epoch" else epoch)
            reading.seed_from_key(int(sample_keys(np.zeros(1, np.int64), seed, epoch)[0]))
            count = 0
            for sample in itertools.islice(iter(self.dataset), self.skip, None):
                count += 1
                yield sample
            self.pass_length = count
            if not count:
                raise DataError(f"dataset: {self._too_short}.")

    def _once(self) -> Iterator[Any]:
        """A stream from its beginning to its end."""
        begin(self.dataset)
        reading.seed_from_key(0)
        stop = None if self.take is None else self.skip + self.take
        yield from itertools.islice(iter(self.dataset), self.skip, stop)

    def in_order(self, batch_size: int, first: int = 0, every: int = 1) -> Iterator[Any]:
        """The batches ``first``, ``first + every``, … of all samples, the same at every call."""
        if self.indices is None:
            stream = StreamReader(self._once, self.collate, batch_size)
            batches = iter(map(stream.batch, itertools.count()))
            whole = itertools.takewhile(lambda batch: batch is not None, batches)
            yield from itertools.islice(whole, first, None, every)
            return
        reader = Reader(self.dataset, self.collate)
        for start in range(first * batch_size, len(self.indices), every * batch_size):
            yield self._read(reader, start, batch_size)

    def _read(self, reader: Reader, start: int, count: int) -> Any:
        """The next ``count`` samples of ``indices``, with the same randomness at every call."""
        assert self.indices is not None
        places = np.arange(start, min(start + count, len(self.indices)), dtype=np.int64)
        return reader.batch(self.indices[places], sample_keys(places, 0))

    def first_batch(self, batch_size: int) -> Any:
        """The first samples as one batch; DataError where none, or none of tensors."""
        if self.indices is not None:
            return self._read(Reader(self.dataset, self._checked), 0, batch_size)
        if (batch := StreamReader(self._once, self._checked, batch_size).batch(0)) is None:
            raise DataError(f"dataset: expected samples; {self._too_short}.")
        return batch

    @property
    def _too_short(self) -> str:
        if not self.skip:
            return "it is empty"
        held_out = f"the stream ended within the {self.skip} samples that are held out"
        return f"{held_out}; give eval_dataset= or a longer stream"

    def spread(self, count: int) -> list[Any]:
        """Samples drawn evenly from all of them, the same at every call; of a stream the first."""
        if self.indices is None:
            return StreamReader(self._once, list, count).batch(0) or []
        n = len(self.indices)
        places = permuted(np.arange(min(count, n), dtype=np.int64), n, 0)
        return list(Reader(self.dataset, list).batch(self.indices[places], sample_keys(places, 0)))

    def _checked(self, samples: list[Any]) -> Any:
        if self.collate is reading.collate:
            reading.check_sample(samples[0], self.dataset)
        try:
            return self.collate(samples)
        except (TypeError, RuntimeError) as error:
            raise DataError(
                f"dataset: its samples do not make a batch ({error}). Pad them to one shape, or "
                "give a DataLoader with a collate_fn."
            ) from error

    @functools.cached_property
    def sample_axes(self) -> tuple[int, ...]:
        """Of each tensor of a batch the dimension of its samples; empty where a sample does not show it."""
        with suppress(Exception), rng.kept():  # a collation may refuse a sample that comes again
            (sample,) = self.spread(1)
            rng.seed(0)
            return sample_axes(*(self.collate([sample] * n) for n in (2, 3)))
        return ()

    def length(self, batch: Any) -> int:
        """Number of samples in a batch."""
        return batch_length(batch, self.sample_axes)

    def cut(self, batch: Any, size: int) -> Iterator[Any]:
        """A batch as parts of at most ``size`` samples."""
        return split_batch(batch, size, self.sample_axes)

    def draws(self) -> bool:
        """Whether reading some samples draws from torch's, NumPy's or Python's generator."""
        return self._probes[2]

    def repeatable(self) -> bool:
        """Whether samples read twice, with the global generators seeded alike, are the same."""
        return self._probes[1]

    def groups(self) -> NDArray[Any] | None:
        """The document or subject of each sample, if the data set has ``groups``."""
        groups = getattr(self.dataset, "groups", None)
        if groups is None or self.indices is None:
            return None
        return np.asarray(groups)[self.indices[np.arange(len(self.indices))]]

    def fingerprint(self) -> str:
        """A hash of the type, length and a spread of samples; of their shapes where they vary."""
        content = self._probes[0]
        own = getattr(self.dataset, "_fingerprint", "")  # HuggingFace's hash of all content
        parts = [reference(type(self.dataset)), str(self.size), str(self.skip), str(own)]
        parts += [] if self.order == "fixed" else [self.order]
        stored = self.indices.without if isinstance(self.indices, AllBut) else self.indices
        chosen = b"" if stored is None else np.ascontiguousarray(stored).tobytes()
        return digest([*parts, chosen, content])

    @functools.cached_property
    def _probes(self) -> tuple[str, bool, bool]:
        """Two seeded readings of a spread of samples: a hash, whether they agree, and draw at random."""
        readings = []
        with rng.kept():
            reading.seed_from_key(0)
            untouched = rng.draw()
            for _ in range(2):
                reading.seed_from_key(0)
                samples = self._probed()
                draws = rng.draw() != untouched
                readings.append(digest(fingerprint_values(s) for s in samples))
        repeatable = readings[0] == readings[1]
        shapes = digest(fingerprint_values(s, structure=True) for s in samples)
        return readings[0] if repeatable else shapes, repeatable, draws

    def _probed(self) -> list[Any]:
        if self.indices is None:
            begin(self.dataset)
            return list(itertools.islice(iter(self.dataset), self.skip, self.skip + _PROBED))
        spread = np.unique(np.linspace(0, len(self.indices) - 1, _PROBED).astype(np.int64))
        return reading.fetch(self.dataset, self.indices[spread].tolist())


def check_dataset_type(dataset: Any, name: str = "dataset") -> None:
    """Refuse what cannot be a data set, without reading from it."""
    indexed = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if isinstance(dataset, str | bytes | Mapping) or not (indexed or hasattr(dataset, "__iter__")):
        raise InputTypeError(
            f"{name}: expected a torch Dataset, IterableDataset, DataLoader or a sequence of "
            f"samples; got {type(dataset).__name__}.{reading.as_samples(dataset)}"
        )
    if isinstance(dataset, Iterator) and type(dataset).__module__ in ("builtins", "itertools"):
        raise InputTypeError(
            f"{name}: expected samples that can be read again, as each run reads them; got a "
            f"{type(dataset).__name__}, which is read once. {reading.ANEW}"
        )
    if isinstance(dataset, tuple) and (hint := reading.as_samples(dataset)):
        raise InputTypeError(
            f"{name}: expected samples; got a tuple of {len(dataset)} arrays.{hint}"
        )


def split_data(
    dataset: Any, eval_dataset: Any = None, most: int = EVAL_SAMPLES
) -> tuple[DataSpec, DataSpec]:
    """The part to train on and the fixed held-out part, of at most so many samples.

    Without ``eval_dataset`` 5 % of the samples are held out: whole groups if the data set has ``groups``,
    else samples drawn evenly at random, or the first ones of a stream, of which a quarter of ``most``.
    """
    train = _spec(dataset, "dataset")
    if eval_dataset is not None:
        held_out = _spec(eval_dataset, "eval_dataset")
        if held_out.indices is None:
            return train, DataSpec(held_out.dataset, held_out.collate, None, take=most)
        last = len(held_out.indices) - 1
        if last >= most:
            note = _in_words("held_out_cut", most=most, samples=last + 1)
            train = replace(train, notes=(*train.notes, note.message))
        spread = np.linspace(0, last, min(last + 1, most))
        indices = held_out.indices[spread.astype(np.int64)]
        return train, DataSpec(held_out.dataset, held_out.collate, indices)
    if train.indices is None:
        count = max(1, most // 4)
        held_out = DataSpec(train.dataset, train.collate, None, take=count)
        if (follows := order_of(train.dataset)) == "by seed":
            raise DataError(
                f"dataset: expected a stream that begins with the same samples in every run, as its first "
                f"{count} are held out; its order is drawn anew for each, and the held-out ones come "
                "later, to be trained on. Give eval_dataset=."
            )
        told = ["stream_held_out", *(["stream_of_epoch_0"] if follows == "by epoch" else [])]
        notes = (_in_words(key, count=count).message for key in told)
        train = replace(train, skip=count, order=follows, notes=(*train.notes, *notes))
        return train, held_out
    n = len(train.indices)
    if n < 2:
        raise DataError(
            f"dataset: expected at least 2 samples, one to train on and one held out; it has {n}."
        )
    count = max(1, min(most, int(n * _EVAL_SHARE)))
    groups = train.groups()
    if groups is not None and len(np.unique(groups)) > 1:
        names, member = np.unique(groups, return_inverse=True)
        order = permuted(np.arange(len(names), dtype=np.int64), len(names), 0)
        sizes = np.cumsum(np.bincount(member)[order])
        chosen = int(np.searchsorted(sizes, count, side="right"))
        chosen = min(max(1, chosen), len(names) - 1)
        held = np.flatnonzero(np.isin(member, order[:chosen]))
        counts = {"chosen": chosen, "groups": len(names), "count": len(held), "samples": n}
        note = _in_words("groups_held_out", **counts)
    else:
        held = np.sort(permuted(np.arange(count, dtype=np.int64), n, 0))
        note = _in_words("random_held_out", count=count, samples=n)
    trained = replace(train, indices=AllBut(n, held), notes=(*train.notes, note.message))
    return trained, DataSpec(train.dataset, train.collate, held)


def _spec(dataset: Any, name: str) -> DataSpec:
    from torch.utils import data

    check_dataset_type(dataset, name)
    join: Collate = reading.collate
    notes: tuple[str, ...] = ()
    workers: int | None = None
    if isinstance(dataset, data.DataLoader):
        usual = isinstance(dataset.sampler, data.RandomSampler | data.SequentialSampler)
        streams = isinstance(dataset.dataset, data.IterableDataset)
        if dataset.batch_size is None and dataset.batch_sampler is None:
            raise DataError(
                f"{name}: the DataLoader has batch_size=None, so that its data set makes whole batches; runs "
                "make batches themselves. Let it give single samples, and give a batch_size."
            )
        if not streams and (not usual or dataset.batch_size is None):
            raise DataError(
                f"{name}: the DataLoader has a sampler of its own, which would be lost: runs draw their "
                "samples themselves, to be repeatable. Give its data set, arranged as it should be sampled."
            )
        notes = (_in_words("data_loader", name=name).message,)
        if dataset.collate_fn not in (None, data.default_collate):
            join = dataset.collate_fn
        workers = dataset.num_workers or None  # 0 is a DataLoader's default, not a choice
        dataset = dataset.dataset
    # torch's Dataset has an indexing that only raises, and an IterableDataset may have a length.
    unread = data.Dataset.__getitem__
    streams = getattr(type(dataset), "__getitem__", unread) is unread or not hasattr(
        dataset, "__len__"
    )
    if not streams and len(dataset) == 0:
        raise DataError(f"{name}: expected at least one sample; it is empty.")
    indices = None if streams else AllBut(len(dataset))
    return DataSpec(dataset, join, indices, notes=notes, workers=workers)
