"""Which samples come when: shuffles that are functions of a seed and store nothing."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio, odd


def permuted(position: NDArray[np.int64], n: int, key: int) -> NDArray[np.int64]:
    """The entries at ``position`` in a shuffle of range(n) chosen by ``key``; nothing of size n is stored.

    A Feistel network over the next even number of bits, walked until it falls below n (Black, Rogaway 2002).
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


def shuffled(position: NDArray[np.int64], n: int, seed: int) -> NDArray[np.int64]:
    """Which of n samples is at each position of a run; every epoch has its own order."""
    epochs = position // n
    out = np.empty_like(position)
    for epoch in np.unique(epochs):
        inside = epochs == epoch
        key = (seed % (1 << 64)) * (1 << 32) + int(epoch)
        out[inside] = permuted(position[inside] % n, n, key)
    return out


def sample_keys(
    position: NDArray[np.int64], seed: int, epoch: NDArray[np.int64] | int = 0
) -> NDArray[np.uint64]:
    """A hash of (seed, epoch, position in the epoch) for each position: its sample's randomness."""
    with np.errstate(over="ignore"):
        run = _mix(np.asarray([seed % (1 << 64)], dtype=np.uint64) + _GOLDEN)
        whole = _mix(run ^ _mix(np.asarray(epoch).astype(np.uint64) + _GOLDEN))
        return _mix(whole + (position.astype(np.uint64) + np.uint64(1)) * _GOLDEN)


@dataclass(frozen=True)
class AllBut:
    """An array of 0 to n − 1 except the ascending ``without``, which alone is stored."""

    n: int
    without: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def __len__(self) -> int:
        return self.n - len(self.without)

    def __getitem__(self, place: NDArray[np.int64]) -> NDArray[np.int64]:
        # The k-th number left has below it every gap g_j with g_j − j ≤ k.
        gaps = self.without - np.arange(len(self.without))
        return place + np.searchsorted(gaps, place, side="right")
