"""Whether a stream begins with the same samples whatever the seed and the epoch: these are held out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from flops_fit import rng
from flops_fit.batches import map_tensors
from flops_fit.data import reading
from flops_fit.fingerprint import fingerprint_values

Order = Literal["fixed", "by epoch", "by seed", "unknown"]
_HEAD = 64  # samples that are compared
_FEWEST = 8  # that say something of their order
_MOST_NUMBERS = 4_096  # of a sample's tensor
_SECONDS = 0.5  # for which the first samples of one order are looked for in another
_KNOWN = 0.1  # of them, that are nearest to those in their own places: by chance it is one


def begin(dataset: Any, epoch: int = 0) -> None:
    """Tell a data set which epoch follows, if it asks for that; 0 wherever samples are only looked at."""
    set_epoch = getattr(dataset, "set_epoch", None)
    if callable(set_epoch):
        set_epoch(epoch)


def order_of(dataset: Any) -> Order:
    """What the first samples of a stream depend on; random changes to the same samples are none of it.

    ``"unknown"`` where other samples come with another seed, and none of the first is met again.
    """
    with suppress(Exception):  # of the user's code; training, where it is told, raises it again
        first, other = _head(dataset, 0, 0), _head(dataset, 1, 0)
        if not _same(first, other):
            return "by seed" if _met_again(dataset, first) else "unknown"
        if hasattr(dataset, "set_epoch") and not _same(first, _head(dataset, 0, 1)):
            return "by epoch"
    return "fixed"


def _read(dataset: Any, seed: int, epoch: int) -> Iterator[Any]:
    """A stream from its beginning; the generators and its epoch are put back at the end."""
    try:
        with rng.kept():
            begin(dataset, epoch)
            reading.seed_from_key(seed)
            yield from iter(dataset)
    finally:
        begin(dataset)


def _head(dataset: Any, seed: int, epoch: int) -> list[Any]:
    return [s for _, s in zip(range(_HEAD), _read(dataset, seed, epoch), strict=False)]


def _same(first: list[Any], other: list[Any]) -> bool:
    """Whether samples are the same, or some are more like those in their own places than like others."""
    digests = [[fingerprint_values(s) for s in samples] for samples in (first, other)]
    if digests[0] == digests[1]:
        return True
    if len(first) != len(other) or len(first) < _FEWEST:
        return False
    if any(d in digests[0] and d != own for own, d in zip(*digests, strict=True)):
        return False
    return _resemble(list(map(numbers_of, first)), list(map(numbers_of, other)))


def _met_again(dataset: Any, first: list[Any]) -> bool:
    """Whether some of the first samples come at another place with another seed, and none comes twice.

    What comes twice may be drawn anew each time, as small numbers are.
    """
    wanted, seen, found = {fingerprint_values(s) for s in first}, set(), 0
    end = time.perf_counter() + _SECONDS
    for sample in _read(dataset, 1, 0):
        digest = fingerprint_values(sample)
        if digest in seen or time.perf_counter() > end:
            found *= digest not in seen
            break
        seen.add(digest)
        found += digest in wanted
    return found > 0 and len(wanted) == len(first)


def numbers_of(sample: Any) -> list[NDArray[np.float64]]:
    """The numbers of each tensor and array of a sample."""
    out: list[NDArray[np.float64]] = []

    def keep(tensor: Any) -> None:
        out.append(tensor.detach().cpu().double().numpy().reshape(-1)[:_MOST_NUMBERS])

    map_tensors(reading.collate([sample]), keep)
    return out


def _resemble(first: list[Any], other: list[Any]) -> bool:
    """Whether samples lie nearest to those in their own places, all tensors taken together."""
    lengths = [[tuple(map(len, sample)) for sample in samples] for samples in (first, other)]
    if lengths[0] != lengths[1] or len(set(lengths[0])) > 1:
        return lengths[0] == lengths[1]
    apart = np.zeros((len(first), len(first)))
    for a, b in zip(zip(*first, strict=True), zip(*other, strict=True), strict=True):
        own, others = np.nan_to_num(np.stack(a)), np.nan_to_num(np.stack(b))
        between = np.array([np.abs(row - others).mean(axis=1) for row in own])
        apart += between / max(float(between.mean()), 1e-300)
    nearest = apart.argmin(axis=1) == np.arange(len(first))
    return bool(nearest.mean() > _KNOWN)
