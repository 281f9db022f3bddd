"""The global generators that transforms draw from: torch's on the CPU, NumPy's legacy one, Python's.

A step first reads its samples as they are and looks whether a generator has moved. Where none has,
the samples are not random and nothing had to be seeded. Saving and comparing costs some twenty
microseconds a step; seeding would cost six a sample.
"""

from __future__ import annotations

import ctypes
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

States = tuple[Any, Any, Any]
_STRUCT = 625 * 4  # bytes of a Mersenne twister in NumPy: 624 words and where it stands in them


def seed_generators(key: int) -> None:
    """Seed all three from 64 bits.

    torch and NumPy fill the same Mersenne twister from 32 bits, so each gets its own half: from one
    seed both would draw the same numbers. CUDA's generators, which draw the masks of dropout, are
    left alone.
    """
    import torch

    torch.default_generator.manual_seed(key & 0xFFFFFFFF)
    np.random.seed(key >> 32)  # noqa: NPY002 - the global one
    random.seed(key)


def capture() -> States:
    """Where the three generators stand."""
    import torch

    return (
        torch.default_generator.get_state(),
        np.random.get_state(),  # noqa: NPY002 - the global one
        random.getstate(),
    )


def restore(states: States) -> None:
    """Let the generators go on from there."""
    import torch

    torch.default_generator.set_state(states[0])
    np.random.set_state(states[1])  # noqa: NPY002 - the global one
    random.setstate(states[2])


@contextmanager
def kept() -> Iterator[None]:
    """Whatever is drawn inside, the generators go on as they were."""
    before = capture()
    try:
        yield
    finally:
        restore(before)


class GeneratorWatch:
    """Sees whether a generator moved since :meth:`start`, and can take the moves back.

    NumPy needs 30 µs to tell its state, so its memory is compared, and the state is asked for only
    where that memory has changed since it was last asked for. A normal variate that NumPy holds
    back is not in that memory; while there is one the state is asked for every time.
    """

    def __init__(self) -> None:
        self._states: States | None = None
        self._memory: bytes | None = None
        self._twister: Any = None

    def start(self) -> None:
        """Remember where the generators stand."""
        import torch

        numpy_state = self._states[1] if self._states is not None else None
        memory = self._numpy_memory()
        if numpy_state is None or memory is None or memory != self._memory or numpy_state[3]:
            numpy_state = np.random.get_state()  # noqa: NPY002 - the global one
        self._memory = memory
        self._states = (torch.default_generator.get_state(), numpy_state, random.getstate())

    def moved(self) -> bool:
        """Whether any was drawn from or seeded since the start."""
        import torch

        assert self._states is not None
        before = self._states
        if _raw(before[0]) != _raw(torch.default_generator.get_state()):
            return True
        if self._memory is None or before[1][3]:
            if not _equal(before[1], np.random.get_state()):  # noqa: NPY002 - the global one
                return True
        elif self._memory != self._numpy_memory():
            return True
        return bool(_place(before[2]) != _place(random.getstate()))

    def take_back(self) -> None:
        """Put the generators where they stood at the start."""
        assert self._states is not None
        restore(self._states)

    def _numpy_memory(self) -> bytes | None:
        """The words of NumPy's Mersenne twister; ``None`` where somebody set another generator."""
        generator = np.random.get_bit_generator()  # type: ignore[attr-defined]  # not in NumPy's stubs
        if type(generator) is not np.random.MT19937:
            return None
        if self._twister is None or self._twister[0] is not generator:
            self._twister = (generator, generator.ctypes.state_address)
        return ctypes.string_at(self._twister[1], _STRUCT)


def _raw(state: Any) -> bytes:
    raw: bytes = state.numpy().tobytes()
    return raw


def _place(state: Any) -> Any:
    """Of Python's twister where it stands in its words, some of them, and the variate held back.

    A draw moves the place; 624 draws bring it back with other words.
    """
    return state[1][624], state[1][:8], state[2]


def _equal(one: Any, other: Any) -> bool:
    """Whether two states of NumPy's generator, tuples or nested dicts of arrays, are the same."""
    return repr(_listed(one)) == repr(_listed(other))


def _listed(state: Any) -> Any:
    if isinstance(state, dict):
        return {k: _listed(v) for k, v in state.items()}
    if isinstance(state, tuple):
        return [_listed(v) for v in state]
    return state.tolist() if isinstance(state, np.ndarray) else state
