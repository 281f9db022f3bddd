"""Samples to draw from, by index or from a stream."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flops_fit.data.reading import Reader, StreamReader, fetch, made_ahead
from flops_fit.data.shuffle import AllBut, sample_keys, shuffled
from flops_fit.errors import DataError
from flops_fit.fingerprint import digest, fingerprint_structure, fingerprint_values, reference
from flops_fit.rng import GeneratorWatch, kept, seed_generators

_SHUFFLED_AT_ONCE = 4_096
_PROBED = 16  # samples that a fingerprint reads


@dataclass(frozen=True)
class _Probes:
    """Of a spread of samples: a hash, whether two readings agree, whether they draw at random."""

    content: str
    repeated: bool
    draws: bool


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
    workers
        Processes that the user's DataLoader reads with; ``None`` where nobody said.
    """

    dataset: Any
    collate: Callable[[list[Any]], Any]
    indices: NDArray[np.int64] | AllBut | None
    skip: int = 0
    take: int | None = None
    notes: tuple[str, ...] = field(default=())
    workers: int | None = None
    _known: _Probes | None = field(default=None, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        """Number of samples; a stream has none to tell."""
        if self.indices is None:
            raise TypeError("a stream has no length")
        return len(self.indices)

    @property
    def size(self) -> int | None:
        """Number of samples, ``None`` for a stream."""
        return None if self.indices is None else len(self.indices)

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

        What is random in a sample follows from (seed, epoch, position in the epoch): not from the
        batch size, the step begun at, the workers, or what else draws random numbers.

        Parameters
        ----------
        share
            First and last of each batch's samples that are wanted, the last excluded; all of them
            by default. Of an empty share each batch is ``None``.
        workers
            Processes that make batches ahead, two each; a stream is read by one. Worth it where
            reading a batch takes longer than handing it over, some hundred microseconds.
        pin
            Put batches into page-locked memory, where there is a CUDA device to copy them to.
        """
        if self.indices is None:
            stream = StreamReader(partial(self._endless, seed), self.collate, share=share)
            yield from _stream_ahead(stream, (batch_size, steps, start, seed), workers, pin)
            return
        make = partial(_made, Reader(self.dataset, self.collate))
        items = self._order(batch_size, steps, seed, start, share or (0, batch_size))
        yield from made_ahead(make, items, workers, pin)

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

    def _endless(self, seed: int, seeded: bool) -> Iterator[Any]:
        """A stream in its own order, begun again where it ends."""
        for epoch in itertools.count():
            set_epoch = getattr(self.dataset, "set_epoch", None)
            if callable(set_epoch):
                set_epoch(epoch)
            if seeded:
                seed_generators(int(sample_keys(np.zeros(1, np.int64), seed, epoch)[0]))
            empty = True
            for sample in itertools.islice(iter(self.dataset), self.skip, None):
                empty = False
                yield sample
            if empty:
                raise DataError(
                    f"dataset: the stream ended within the {self.skip} samples that are held out; "
                    "give eval_dataset= or a longer stream."
                )

    def _once(self, seeded: bool) -> Iterator[Any]:
        """A stream from its beginning to its end."""
        if seeded:
            seed_generators(0)
        stop = None if self.take is None else self.skip + self.take
        yield from itertools.islice(iter(self.dataset), self.skip, stop)

    def in_order(self, batch_size: int, first: int = 0, every: int = 1) -> Iterator[Any]:
        """Every sample once, in order, the last batch as short as it comes.

        Of the batches only ``first``, ``first + every``, … are made.

        What is random in a sample is the same at every call, so that a held-out loss is judged by
        the same samples whoever asks.
        """
        if self.indices is None:
            batches = StreamReader(self._once, self.collate).batches(batch_size, None, 0, 0)
            yield from itertools.islice(batches, first, None, every)
            return
        reader = Reader(self.dataset, self.collate)
        for start in range(first * batch_size, len(self.indices), every * batch_size):
            stop_at = min(start + batch_size, len(self.indices))
            yield self._read(reader, np.arange(start, stop_at, dtype=np.int64))

    def _read(self, reader: Reader, places: NDArray[np.int64]) -> Any:
        """The samples at these places of ``indices``, as in every other call."""
        assert self.indices is not None
        return reader.batch(self.indices[places], sample_keys(places, 0))

    def first_batch(self, batch_size: int) -> Any:
        """The first samples as one batch, checked to hold tensors.

        Raises
        ------
        DataError
            There are no samples, or they hold text or lists that no model takes.
        """
        if self.indices is None:
            batch = next(StreamReader(self._once, self._checked).batches(batch_size, 1, 0, 0), None)
            if batch is None:
                raise DataError("dataset: expected at least one sample; it is empty.")
            return batch
        places = np.arange(min(batch_size, len(self.indices)), dtype=np.int64)
        return self._read(Reader(self.dataset, self._checked), places)

    def _checked(self, samples: list[Any]) -> Any:
        _check_sample(samples[0], self.dataset)
        try:
            return self.collate(samples)
        except (TypeError, RuntimeError) as error:
            raise DataError(
                f"dataset: its samples do not make a batch ({error}). Pad them to one shape, or "
                "give a DataLoader with a collate_fn."
            ) from error

    def draws(self) -> bool:
        """Whether reading some samples draws from torch's, NumPy's or Python's generator."""
        return self._probes().draws

    def repeatable(self) -> bool:
        """Whether samples read twice, with the global generators seeded alike, are the same."""
        return self._probes().repeated

    def groups(self) -> NDArray[Any] | None:
        """Which document or subject each sample is of, where the data set says so."""
        groups = getattr(self.dataset, "groups", None)
        if groups is None or self.indices is None:
            return None
        return np.asarray(groups)[self.indices[np.arange(len(self.indices))]]

    def fingerprint(self) -> str:
        """A hash of the kind, length and a spread of samples.

        Of samples that differ from one reading to the next it takes the shapes alone, so that a
        second call finds the runs of the first.
        """
        content = self._probes().content
        own = getattr(self.dataset, "_fingerprint", "")  # HuggingFace's hash of all content
        parts = [reference(type(self.dataset)), str(self.size), str(self.skip), str(own)]
        kept_back = self.indices.without if isinstance(self.indices, AllBut) else self.indices
        chosen = b"" if kept_back is None else np.ascontiguousarray(kept_back).tobytes()
        return digest([*parts, chosen, content])

    def _probes(self) -> _Probes:
        """What two seeded readings of a spread of samples show; read at the first call."""
        if self._known is None:
            readings, watch = [], GeneratorWatch()
            with kept():
                for _ in range(2):
                    seed_generators(0)
                    watch.start()
                    samples = self._probed()
                    draws = watch.moved()
                    readings.append(digest(fingerprint_values(s) for s in samples))
            repeated = readings[0] == readings[1]
            shapes = digest(fingerprint_structure(s) for s in samples)
            self._known = _Probes(readings[0] if repeated else shapes, repeated, draws)
        return self._known

    def _probed(self) -> list[Any]:
        if self.indices is None:
            return list(itertools.islice(iter(self.dataset), self.skip, self.skip + _PROBED))
        spread = np.unique(np.linspace(0, len(self.indices) - 1, _PROBED).astype(np.int64))
        return fetch(self.dataset, self.indices[spread].tolist())


def _made(reader: Reader, item: tuple[NDArray[np.int64], NDArray[np.uint64]]) -> Any:
    return reader.batch(*item) if len(item[0]) else None


@dataclass
class _NextBatch:
    """A stream's batches one after another, whatever is asked for."""

    stream: StreamReader
    wanted: tuple[int, int, int, int]
    batches: Iterator[Any] | None = None

    def __call__(self, step: int) -> Any:
        if self.batches is None:
            self.batches = self.stream.batches(*self.wanted)
        return next(self.batches)


def _stream_ahead(
    stream: StreamReader, wanted: tuple[int, int, int, int], workers: int, pin: bool
) -> Iterator[Any]:
    yield from made_ahead(_NextBatch(stream, wanted), range(wanted[1]), min(workers, 1), pin)


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
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = [(f"{where}.{f.name}", getattr(value, f.name)) for f in dataclasses.fields(value)]
    elif isinstance(value, tuple) or _holds_arrays(value):
        items = [(f"{where}[{i}]", v) for i, v in enumerate(value)]
    elif isinstance(value, list):
        return f"a list of {len(value)} in {where}"
    elif value is None:
        return f"None in {where}"
    else:
        return ""
    return next((bad for w, v in items if (bad := _not_numeric(v, w))), "")


def _holds_arrays(value: Any) -> bool:
    """A list of tensors is a sample like a tuple; one of numbers has to become a tensor first."""
    return isinstance(value, list) and any(hasattr(v, "shape") for v in value)
