"""Find the size at which a model has a given number of parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice

from flops_fit.errors import ModelError
from flops_fit.records import ParamCount

_LARGEST_SCANNED = 1024  # every size up to here is tried until two are accepted
_LARGER_TRIED = tuple(2**k for k in range(11, 18))  # where none of those is accepted
_STEPS_TO_GROW = 64  # N must have grown after this many sizes
_NEIGHBOURS = 64  # sizes tried on each side of a refused one


@dataclass
class SizeSearch:
    """A search over the whole numbers that a constructor takes as its size."""

    count: Callable[[int], ParamCount | None]  # None where refused, for the reason in refusals
    reference: str
    size_param: str
    refusals: dict[str, str]
    _grid: tuple[int, int] | None = field(default=None, repr=False)

    def nearest(self, params: float) -> tuple[int, ParamCount] | None:
        """The accepted size whose total N is nearest to ``params``, or ``None`` below a third."""
        first, stride = self.grid()

        def near(k: int) -> tuple[int, ParamCount] | None:
            return self._near(first + stride * k)

        low, high = 0, 1
        while (top := near(high)) is not None and top[1].total < params:
            low, high = high, high * 2
        if top is None:
            last, refused = low, high
            while refused - last > 1:
                middle = (last + refused) // 2
                last, refused = (last, middle) if near(middle) is None else (middle, refused)
            high = last
        while high - low > 1:
            k = (low + high) // 2
            a, b = near(low), near(high)
            if a is not None and b is not None:
                n0, n1 = math.log(a[1].total), math.log(b[1].total)
                if b[0] > a[0] and n1 > n0:  # where N = params lies if N is a power of the size
                    share = min(max((math.log(params) - n0) / (n1 - n0), 0.0), 1.0)
                    size = a[0] * (b[0] / a[0]) ** share
                    k = min(max(round((size - first) / stride), low + 1), high - 1)
            at = near(k)
            if at is None:
                break
            low, high = (k, high) if at[1].total < params else (low, k)
        accepted = [end for end in (near(low), near(high)) if end is not None]
        if not accepted:
            return None

        def miss(size: tuple[int, ParamCount]) -> float:
            return abs(math.log(size[1].total / params))

        best = min(accepted, key=miss)
        best = min([best, *self._beside(best, params, stride)], key=miss)
        return None if best[1].total < params / 3 else best

    def _beside(
        self, best: tuple[int, ParamCount], params: float, stride: int
    ) -> list[tuple[int, ParamCount]]:
        """The accepted sizes on each side of where N = ``params`` would be, by N = k·size^p."""
        size, n = best[0], best[1].total
        double = self._near(2 * size)
        power = 2.0
        if double is not None and double[0] > size and double[1].total > n:
            power = math.log(double[1].total / n) / math.log(double[0] / size)
        middle = size + stride * round((size * (params / n) ** (1 / power) - size) / stride)
        out = []
        for sign in (1, -1):
            for k in range(2 * _NEIGHBOURS):
                beside = middle + sign * stride * k
                if beside == size:
                    break
                if beside > 0 and (counted := self.count(beside)) is not None:
                    out.append((beside, counted))
                    break
        return out

    def grid(self) -> tuple[int, int]:
        """The smallest accepted size, and the step to the next one."""
        if self._grid is None:
            tried: Iterable[int] = (*range(1, _LARGEST_SCANNED + 1), *_LARGER_TRIED)
            accepted = list(islice((s for s in tried if self.count(s) is not None), 2))
            if accepted and accepted[0] > _LARGEST_SCANNED:
                steps = (2**k for k in range(accepted[0].bit_length()))
                beside = (accepted[0] + step for step in steps)
                accepted[1:] = list(islice((s for s in beside if self.count(s)), 1))
            if not accepted:
                reasons = list(dict.fromkeys(self.refusals.values()))
                raise ModelError(
                    f"model_size_param: {self.reference} accepts no {self.size_param} from 1 to "
                    f"{_LARGEST_SCANNED}, nor a power of two above. It says: {'; '.join(reasons[:2])}. "
                    "Check model_kwargs, or name sizes that work: sizes=[...]."
                )
            first, stride = accepted[0], accepted[-1] - accepted[0] or accepted[0]
            self._grid = first, stride
            small, large = self.count(first), self._near(first + _STEPS_TO_GROW * stride)
            if small and large and large[0] > first and large[1].total <= small.total:
                raise ModelError(
                    f"model_size_param: N does not grow with {self.size_param}: {self.reference} has "
                    f"{small.total:,} parameters at {first} and {large[1].total:,} at {large[0]}. "
                    "Name the argument that sets the size, or give sizes=[{...}, ...]."
                )
        return self._grid

    def _near(self, size: int) -> tuple[int, ParamCount] | None:
        """The accepted size nearest to ``size``."""
        _, stride = self.grid()
        power = 1 << max(size.bit_length() - 1, 0)
        steps = [size + sign * stride * k for k in range(_NEIGHBOURS) for sign in (1, -1)]
        for candidate in [*steps[1:4], power, 2 * power, *steps[4:]]:
            if candidate > 0 and (counted := self.count(candidate)) is not None:
                return candidate, counted
        return None
