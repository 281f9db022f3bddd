"""How fast a sweep goes."""

from __future__ import annotations

from collections import deque

__all__ = ["Rate"]

_LEAST = 5.0  # seconds before anything is said
_WINDOW = 30.0  # seconds that are looked back at least


class Rate:
    """Work a second over the later half of the time so far, and over half a minute at least.

    A sweep starts with its dearest runs and ends with cheap ones of another speed, so all the time
    there was says too little of what is to come. Tasks that never say how far they are do their work
    in leaps; a window that grows keeps those within a factor of two.

    Parameters
    ----------
    now
        When the work begins, in seconds of any clock.
    work
        What is done by then, which is not counted.

    Examples
    --------
    >>> rate = Rate(now=100.0)
    >>> rate.add(now=110.0, work=50.0)
    >>> rate.at(now=110.0, work=50.0)
    5.0
    """

    def __init__(self, now: float, work: float = 0.0) -> None:
        self._start = now
        self._samples = deque([(now, work)])

    def add(self, now: float, work: float) -> None:
        """All that is done by a time; a few hundred of them are kept."""
        if now - self._samples[-1][0] > max(0.5, (now - self._start) / 200):
            self._samples.append((now, work))
        since = now - max(_WINDOW, (now - self._start) / 2)
        while len(self._samples) > 1 and self._samples[1][0] <= since:
            self._samples.popleft()

    def at(self, now: float, work: float) -> float | None:
        """Work a second; ``None`` before there is enough to say."""
        then, before = self._samples[0]
        if now - self._start < _LEAST or work <= before:
            return None
        return (work - before) / (now - then)
