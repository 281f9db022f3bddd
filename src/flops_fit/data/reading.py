"""Reading samples as batches: each sample seeded by its own key, ahead of time by other processes."""

import inspect
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flops_fit import rng
from flops_fit.batches import fields_of, with_parts
from flops_fit.errors import DataError
from flops_fit.text import error_line, user_line

Collate = Callable[[list[Any]], Any]

ANEW = "Give a torch IterableDataset whose __iter__ makes a new generator."
_COLLATION = 0x5851F42D4C957F2D  # separates the randomness of a collation from that of its samples
_PREFETCHED = 2  # batches that each worker keeps ready


def collate(samples: list[Any]) -> Any:
    """``torch.utils.data.default_collate``, for dataclasses too: a batch of each field."""
    from torch.utils.data import default_collate

    first = samples[0]
    if (fields := fields_of(first)) is not None:
        joined = {name: collate([getattr(s, name) for s in samples]) for name in fields}
        return with_parts(first, joined)
    if not _holds_dataclass(first):
        return default_collate(samples)
    if isinstance(first, Mapping):
        return {k: collate([s[k] for s in samples]) for k in first}
    parts = [collate(list(values)) for values in zip(*samples, strict=True)]
    return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)


def _holds_dataclass(sample: Any) -> bool:
    if isinstance(sample, Mapping | list | tuple):
        values = sample.values() if isinstance(sample, Mapping) else sample
        return any(map(_holds_dataclass, values))
    return fields_of(sample) is not None


def check_sample(sample: Any, dataset: Any) -> None:
    """Refuse a sample that holds what cannot become a tensor."""
    bad = _not_numeric(sample, "sample")
    if bad:
        hint = "Return tensors from __getitem__, or give a DataLoader with a collate_fn."
        if hasattr(dataset, "with_format"):
            hint = 'Format it first: dataset.with_format("torch", columns=[...]).'
        raise DataError(f"dataset: expected samples of tensors or numbers; got {bad}. {hint}")


def _not_numeric(value: Any, where: str) -> str:
    """The first leaf that cannot become a tensor, in words; empty if there is none."""
    if isinstance(value, str | bytes):
        return f"text in {where} ({value[:30]!r})"
    if value is None:
        return f"None in {where}"
    if isinstance(value, Mapping):
        items = [(f"{where}[{k!r}]", v) for k, v in value.items()]
    elif (fields := fields_of(value)) is not None:
        items = [(f"{where}.{name}", v) for name, v in fields.items()]
    elif isinstance(value, list) and not any(hasattr(v, "shape") for v in value):
        return f"a list of {len(value)} in {where}"  # of numbers, which default_collate transposes
    elif isinstance(value, list | tuple):
        items = [(f"{where}[{i}]", v) for i, v in enumerate(value)]
    else:
        return ""
    return next((bad for w, v in items if (bad := _not_numeric(v, w))), "")


def as_samples(arrays: Any) -> str:
    """What to give instead of arrays of one length, one for inputs and one for targets."""
    if inspect.isgeneratorfunction(arrays):
        return f" {ANEW}"
    if not hasattr(arrays, "__iter__"):
        return ""
    values = list(arrays.values() if isinstance(arrays, Mapping) else arrays)
    if isinstance(arrays, Mapping) and all(callable(getattr(v, "map", None)) for v in values):
        return f" Give one part of it: dataset[{next(iter(arrays), '')!r}]."
    rows = {len(v) for v in values if len(getattr(v, "shape", ()))}
    if len(values) < 2 or len(rows) != 1 or not all(hasattr(v, "shape") for v in values):
        return ""
    return " Give torch.utils.data.TensorDataset(inputs, targets), made of tensors."


def fetch(dataset: Any, indices: Sequence[int]) -> list[Any]:
    """The samples at these indices, with one call if the data set supports it."""
    many = getattr(dataset, "__getitems__", None)
    try:
        return list(many(list(indices))) if callable(many) else [dataset[i] for i in indices]
    except IndexError as error:
        raise DataError(
            f"dataset: expected {len(dataset)} samples, as its length says; reading some of them raised "
            f"{error_line(error)}{user_line(error)}."
        ) from error


@dataclass
class Reader:
    """Batches of a map-style data set, read at once until a sample draws: seeding each costs 8 µs."""

    dataset: Any
    collate: Collate
    _by_batch: bool = field(default=True, init=False)

    def batch(self, indices: NDArray[np.int64], keys: NDArray[np.uint64]) -> Any:
        """The samples at ``indices`` as one batch; ``None`` for no samples."""
        if not len(indices):
            return None
        numbers: list[int] = keys.tolist()
        samples: list[Any] = []
        with rng.kept():
            if self._by_batch:
                seed_from_key(numbers[0])
                untouched = rng.draw()
                seed_from_key(numbers[0])
                samples = fetch(self.dataset, indices.tolist())
                self._by_batch = rng.draw() == untouched
            if not self._by_batch:
                samples = []
                for index, key in zip(indices.tolist(), numbers, strict=True):
                    seed_from_key(key)
                    samples += fetch(self.dataset, [index])
            seed_from_key(numbers[0] ^ _COLLATION)
            return self.collate(samples)


def seed_from_key(key: int) -> None:
    """Seed the generators from a 64-bit hash; its upper half is NumPy's."""
    rng.seed(key, key >> 32)


@dataclass
class StreamReader:
    """Makes batches of a stream, which ``samples`` begins and seeds; collates the slice ``share``."""

    samples: Callable[[], Iterator[Any]]
    collate: Collate
    batch_size: int
    seed: int = 0
    share: tuple[int, int] | None = None
    _iterator: Iterator[Any] | None = field(default=None, repr=False)
    _put_back: Callable[[], None] | None = field(default=None, repr=False)

    def batch(self, step: int) -> Any:
        """The batch of a step: any step first, then each next one. ``None`` for no samples."""
        with rng.kept():
            if self._put_back is not None:
                self._put_back()
            if self._iterator is None:
                self._iterator = self.samples()
                for _ in range(step * self.batch_size):
                    next(self._iterator)
            taken = [s for _, s in zip(range(self.batch_size), self._iterator, strict=False)]
            self._put_back = rng.mark()
            key = (self.seed * 0x9E3779B97F4A7C15 + step) % (1 << 64)
            seed_from_key(key ^ _COLLATION)
            samples = taken if self.share is None else taken[slice(*self.share)]
            return self.collate(samples) if samples else None


class _Failure(NamedTuple):
    """What the user's code raised in a worker."""

    error: Exception
    details: str


@dataclass(frozen=True)
class _Batches:
    """A data set whose samples are whole batches: ``make(item)`` for each item of the order."""

    make: Callable[[Any], Any]

    def __getitem__(self, item: Any) -> Any:
        try:
            return self.make(item)
        except Exception as error:  # the user's data set may raise anything
            details = "".join(traceback.format_exception(error))
            try:
                pickle.loads(pickle.dumps(error))
            except Exception:  # its constructor takes more than its arguments
                error = RuntimeError(f"{type(error).__name__}: {error}")
            where = f"In a process that reads the data:\n{details}"
            return _Failure(error.with_traceback(None), where)

    def __reduce__(self) -> tuple[Any, ...]:
        """By cloudpickle, as the data set may be defined in a script or a notebook."""
        import cloudpickle

        return _unpickle, (cloudpickle.dumps(self.make),)


def _unpickle(content: bytes) -> _Batches:
    return _Batches(pickle.loads(content))


def read_ahead(
    make: Callable[[Any], Any], items: Iterable[Any], workers: int, pin: bool
) -> Iterator[Any]:
    """``make(item)`` for each item, in order, by ``workers`` processes; errors are raised here."""
    import torch
    from torch.utils.data import DataLoader

    if multiprocessing.current_process().daemon:  # a worker of the pool may have no child processes
        workers = 0
    pin = pin and torch.cuda.is_available()
    if not workers and not pin:
        yield from map(make, items)
        return
    with warnings.catch_warnings():
        # Workers that wait for a disk are not bound by cores, and every DataLoader forks.
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
        source: Any = _Batches(make)  # torch only indexes it, but its types ask for a Dataset
        loader: DataLoader[Any] = DataLoader(
            source,
            sampler=items,
            batch_size=None,
            collate_fn=_unchanged,
            num_workers=workers,
            prefetch_factor=_PREFETCHED if workers else None,
            pin_memory=pin,
            worker_init_fn=_ignore_signals,
            generator=torch.Generator(),  # or it would draw from the run's own
        )
        batches = iter(loader)
    try:
        for batch in batches:
            if isinstance(batch, _Failure):
                batch.error.add_note(batch.details)
                raise batch.error
            yield batch
    finally:
        # End the processes now: the traceback of an error of torch's would keep the iterator alive.
        end = getattr(batches, "_shutdown_workers", None)
        del batches
        if end is not None:
            end()


def _unchanged(batch: Any) -> Any:
    return batch


def _ignore_signals(worker: int) -> None:
    """Leave signals, which reach every process at once, to the run: it ends its readers itself."""

    def exit_on_sigterm_from(parent: int) -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
            pass
        os._exit(0)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=exit_on_sigterm_from, args=(os.getppid(),), daemon=True).start()


def explain_lost_reader(error: BaseException) -> str:
    """Says that a process that reads the data was killed; empty for any other error."""
    text = str(error).strip()
    if not isinstance(error, RuntimeError) or not text.startswith("DataLoader worker"):
        return ""
    number = text.rpartition("signal: ")[2].partition(".")[0].strip() if "signal: " in text else ""
    killed = f"was killed by signal {number}" if number else "ended unexpectedly"
    return f"a process that reads the data {killed}. If memory ran out, use fewer workers, or workers=0."
