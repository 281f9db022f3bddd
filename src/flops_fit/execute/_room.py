"""What a machine has to give to runs, and what is left of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

__all__ = ["Room", "cores", "visible_gpus"]


class Room:
    """Places for processes, and shares of GPUs, taken and given back.

    Parameters
    ----------
    processes
        How many at the same time.
    gpus
        Names of the GPUs; empty where there are none.
    shares
        Runs that may use a GPU at the same time.

    Examples
    --------
    >>> room = Room(4, ["0", "1"], shares=2)
    >>> room.take(1, 1), room.take(2, 2), room.take(1, 1), room.take(1, 1)
    (('0',), ('1', '0'), ('1',), None)
    """

    def __init__(self, processes: int, gpus: Sequence[str] = (), shares: int = 1) -> None:
        self.processes = processes
        self._free = processes
        self._shares = dict.fromkeys(gpus, shares)

    @property
    def gpus(self) -> int:
        """How many GPUs there are."""
        return len(self._shares)

    def take(self, processes: int, gpus: int) -> tuple[str, ...] | None:
        """The GPUs for a run, those with most shares left; ``None`` where there is no room for it."""
        free = [name for name, shares in self._shares.items() if shares]
        if processes > self._free or gpus > len(free):
            return None
        taken = tuple(sorted(free, key=lambda name: -self._shares[name])[:gpus])
        for name in taken:
            self._shares[name] -= 1
        self._free -= processes
        return taken

    def give_back(self, processes: int, gpus: Sequence[str]) -> None:
        """What :meth:`take` gave."""
        self._free += processes
        for name in gpus:
            self._shares[name] += 1


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them.

    Torch is asked, and only where something has imported it already.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    count = torch.cuda.device_count()
    named = [n.strip() for n in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if n.strip()]
    return named[:count] if named else [str(i) for i in range(count)]
