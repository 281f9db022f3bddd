"""Reading samples so that what is random in them depends on their place in the run alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flops_fit.data._random import States, Watch, capture, kept, restore, seed_generators

__all__ = ["Reader", "StreamReader", "fetch"]

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
    _watch: Watch = field(default_factory=Watch, repr=False)

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
        return {**self.__dict__, "_watch": Watch()}


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
    _watch: Watch = field(default_factory=Watch, repr=False)

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
