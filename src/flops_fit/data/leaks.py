"""Whether held-out samples, or parts of them, are trained on as well."""

from __future__ import annotations

import time
from contextlib import suppress

import numpy as np

from flops_fit import rng
from flops_fit.data import reading
from flops_fit.data.order import permuted
from flops_fit.data.spec import DataSpec
from flops_fit.data.streams import numbers_of
from flops_fit.fingerprint import fingerprint_values

_PAIRS, _FEWEST = 12, 6  # neighbours that are compared, and of them those that differ
_HELD_OUT = 64  # samples that are looked for
_SECONDS = 0.25  # for which they are
_AT_ONCE = 32


def shared_by_neighbours(data: DataSpec) -> float:
    """The share of a sample that begins the next one, as of windows of one text at every few positions."""
    steps: set[int] | None = None
    length = differing = 0
    with suppress(Exception), rng.kept():  # of the user's code; training raises it again
        for place in np.unique(np.linspace(0, len(data.dataset) - 2, _PAIRS).astype(int)).tolist():
            reading.seed_from_key(0)
            pair = [numbers_of(s) for s in reading.fetch(data.dataset, [place, place + 1])]
            first, second = (max(numbers, key=len) for numbers in pair)
            if len(first) != len(second):
                return 0.0
            if np.array_equal(first, second):
                continue  # as of padding: it has every step
            length, differing = len(first), differing + 1
            # Where the second begins in the first, but for borders of pictures, which are all alike.
            near = [s for s in np.flatnonzero(first == second[0]).tolist() if np.ptp(first[s:])]
            own = {s for s in near if s and np.array_equal(first[s:], second[: length - s])}
            steps = own if steps is None else steps & own
            if not steps:
                return 0.0
    share = 1 - min(steps) / length if steps and differing >= _FEWEST else 0.0
    return share if share >= 1 / 8 else 0.0


def held_out_seen(data: DataSpec, held_out: DataSpec) -> tuple[int, int]:
    """How many of some held-out samples are met among those trained on, in a short time; and of how many."""
    met: set[str] = set()
    wanted: set[str] = set()
    with suppress(Exception), rng.kept():  # of the user's code, as above
        wanted = {fingerprint_values(s) for s in held_out.spread(_HELD_OUT)}
        if data.dataset is held_out.dataset:
            return len(wanted), len(wanted)
        end, n = time.perf_counter() + _SECONDS, data.size or _HELD_OUT
        for start in range(0, n, _AT_ONCE):
            places = permuted(np.arange(start, min(start + _AT_ONCE, n), dtype=np.int64), n, 0)
            listed = None if data.indices is None else data.indices[places].tolist()
            samples = data.spread(n) if listed is None else reading.fetch(data.dataset, listed)
            met |= wanted & {fingerprint_values(s) for s in samples}
            if time.perf_counter() > end:
                break
    return len(met), len(wanted)
