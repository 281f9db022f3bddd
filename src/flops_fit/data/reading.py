"""Batches made ahead of time by other processes, in the order of the run."""

from __future__ import annotations

import copy
import dataclasses
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flops_fit.rng import GeneratorWatch, States, capture, kept, restore, seed_generators


def collate(samples: list[Any]) -> Any:
    """``torch.utils.data.default_collate``, for dataclasses too: a batch of each field."""
    from torch.utils.data import default_collate

    if not _holds_dataclass(samples[0]):
        return default_collate(samples)
    return _collate(samples)


def _collate(samples: list[Any]) -> Any:
    from torch.utils.data import default_collate

    first = samples[0]
    if _is_dataclass(first):
        # Not by its constructor, which may check or convert what a single sample holds.
        batch = copy.copy(first)
        for field in dataclasses.fields(first):
            values = [getattr(s, field.name) for s in samples]
            object.__setattr__(batch, field.name, _collate(values))
        return batch
    if not _holds_dataclass(first):
        return default_collate(samples)
    if isinstance(first, Mapping):
        return {k: _collate([s[k] for s in samples]) for k in first}
    parts = [_collate(list(values)) for values in zip(*samples, strict=True)]
    return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)


def _holds_dataclass(sample: Any) -> bool:
    if _is_dataclass(sample):
        return True
    if isinstance(sample, Mapping):
        return any(_holds_dataclass(v) for v in sample.values())
    return isinstance(sample, list | tuple) and any(_holds_dataclass(v) for v in sample)


def _is_dataclass(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type | Mapping)


Collate = Callable[[list[Any]], Any]
_COLLATION = 0x5851F42D4C957F2D  # sets the randomness of a collation apart from that of its samples


def fetch(dataset: Any, indices: Iterable[int]) -> list[Any]:
    """The samples at these indices, asked for at once where the data set can."""
    many = getattr(dataset, "__getitems__", None)
    return list(many(list(indices))) if callable(many) else [dataset[i] for i in indices]


@dataclass
class Reader:
    """Makes batches of a map-style data set.

    Each sample is read with torch's, NumPy's and Python's global generators seeded from its own
    key, and the generators go on as they were. Samples that draw from none of them are read at
    once: a batch is first read as it comes, and only where that moved a generator is it read
    again, sample by sample.
    """

    dataset: Any
    collate: Collate
    draws: bool = False
    _watch: GeneratorWatch = field(default_factory=GeneratorWatch, repr=False)

    def batch(self, indices: NDArray[np.int64], keys: NDArray[np.uint64]) -> Any:
        """The samples at ``indices`` as one batch."""
        chosen: list[int] = indices.tolist()
        if not self.draws:
            self._watch.start()
            try:
                made = self.collate(fetch(self.dataset, chosen))
            except BaseException as error:
                if not self._watch.moved():
                    raise
                self._watch.take_back()
                if not isinstance(error, Exception):
                    raise
            else:
                if not self._watch.moved():
                    return made
                self._watch.take_back()
            self.draws = True
        return self._seeded(chosen, keys.tolist())

    def _seeded(self, chosen: list[int], keys: list[int]) -> Any:
        samples = []
        with kept():
            for index, key in zip(chosen, keys, strict=True):
                seed_generators(key)
                samples += fetch(self.dataset, [index])
            seed_generators(keys[0] ^ _COLLATION)
            return self.collate(samples)

    def __getstate__(self) -> dict[str, Any]:
        """Without addresses of this process."""
        return {**self.__dict__, "_watch": GeneratorWatch()}


@dataclass
class StreamReader:
    """Makes batches of samples that come one after another.

    A stream is read from its beginning whatever is wanted of it, so its generators are seeded once
    an epoch (by ``samples``, where :attr:`draws` is set) and put aside between batches. Like
    samples by index, a stream that draws nothing costs nothing: it is first read as it comes, and
    from its beginning again where that moved a generator.
    """

    samples: Callable[[bool], Iterator[Any]]
    collate: Collate
    draws: bool = False
    share: tuple[int, int] | None = None
    _watch: GeneratorWatch = field(default_factory=GeneratorWatch, repr=False)

    def batches(self, batch_size: int, steps: int | None, start: int, seed: int) -> Iterator[Any]:
        """Batches from step ``start`` on, to the end of the stream where ``steps`` is ``None``."""
        step = start
        last = None if steps is None else start + steps
        iterator: Iterator[Any] | None = None
        own: States | None = None
        while last is None or step < last:
            self._watch.start()
            try:
                if own is not None:
                    restore(own)
                if iterator is None:
                    iterator = self.samples(self.draws)
                    for _ in range(step * batch_size):
                        next(iterator)
                taken = [s for _, s in zip(range(batch_size), iterator, strict=False)]
                if self.draws:
                    own = capture()
                    seed_generators((seed * 0x9E3779B97F4A7C15 + step) % (1 << 64) ^ _COLLATION)
                wanted = taken if self.share is None else taken[slice(*self.share)]
                made = self.collate(wanted) if wanted else None
            finally:
                if moved := self._watch.moved():
                    self._watch.take_back()
            if moved and not self.draws:
                self.draws, iterator = True, None
                continue
            if not taken:
                return
            yield made
            step += 1


_AHEAD = 2  # batches that each worker keeps ready


@dataclass(frozen=True)
class _Failure:
    """What the user's code raised in a worker."""

    error: Exception
    where: str


@dataclass(frozen=True)
class _Batches:
    """A data set whose samples are whole batches: ``make(item)`` for each item of the order."""

    make: Callable[[Any], Any]

    def __getitem__(self, item: Any) -> Any:
        try:
            return self.make(item)
        except Exception as error:  # the user's data set may raise anything
            return _failure(error)

    def __reduce__(self) -> tuple[Any, ...]:
        """By cloudpickle, as the data set may be defined in a script or a notebook."""
        import cloudpickle

        return _unpickled, (cloudpickle.dumps(self.make),)


def made_ahead(
    make: Callable[[Any], Any], items: Iterable[Any], workers: int, pin: bool
) -> Iterator[Any]:
    """``make(item)`` for each item, in order, by ``workers`` processes of a torch DataLoader.

    With ``pin`` and a CUDA device batches lie in page-locked memory, from which they are copied
    while the device computes. A daemonic process, such as a worker of the pool, may have no
    processes of its own; it makes its batches itself. What ``make`` raises is raised here, with the
    worker's traceback as a note. Closing the iterator ends the processes.
    """
    import torch
    from torch.utils.data import DataLoader

    if multiprocessing.current_process().daemon:
        workers = 0
    pin = pin and torch.cuda.is_available()
    if not workers and not pin:
        yield from map(make, items)
        return
    with warnings.catch_warnings():
        # It counts cores, which workers that wait for a disk are not bound by; and forks as every
        # DataLoader does.
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
        source: Any = _Batches(make)  # torch asks for items alone; its types, for a Dataset
        loader: DataLoader[Any] = DataLoader(
            source,
            sampler=items,
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=workers,
            prefetch_factor=_AHEAD if workers else None,
            pin_memory=pin,
            worker_init_fn=_hear_the_parent_alone,
            generator=torch.Generator(),  # or it would draw from the run's own
        )
        batches = iter(loader)
    try:
        for batch in batches:
            if isinstance(batch, _Failure):
                batch.error.add_note(batch.where)
                raise batch.error
            yield batch
    finally:
        # Ends the processes here: the traceback of an error that rose in torch's own frames would
        # hold on to the iterator, and to them.
        end = getattr(batches, "_shutdown_workers", None)
        del batches
        if end is not None:
            end()


def lost_reader(error: BaseException) -> str:
    """In words, that a process that reads the data was killed; empty where that is not it.

    torch raises this in whatever the main thread is doing.
    """
    text = str(error).strip()
    if not isinstance(error, RuntimeError) or not text.startswith("DataLoader worker"):
        return ""
    how = text.rpartition("signal: ")[2].partition(".")[0].strip() if "signal: " in text else ""
    killed = f"was killed by signal {how}" if how else "ended unexpectedly"
    return f"a process that reads the data {killed}. If memory ran out, use fewer workers, or workers=0."


def _hear_the_parent_alone(worker: int) -> None:
    """Signals are for the run, which ends its readers itself once it has kept a checkpoint.

    A terminal sends SIGINT, and a scheduler SIGTERM, to every process of a run at once.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_for_the_parent, args=(os.getppid(),), daemon=True).start()


def _end_for_the_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def _as_it_is(batch: Any) -> Any:
    return batch


def _failure(error: Exception) -> _Failure:
    where = f"In a process that reads the data:\n{''.join(traceback.format_exception(error))}"
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # its constructor wants what its arguments do not say
        error = RuntimeError(f"{type(error).__name__}: {error}")
    return _Failure(error.with_traceback(None), where)


def _unpickled(content: bytes) -> _Batches:
    return _Batches(pickle.loads(content))
