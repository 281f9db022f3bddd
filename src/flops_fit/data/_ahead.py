"""Batches made ahead of time by other processes, in the order of the run."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["lost_reader", "made_ahead"]

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
