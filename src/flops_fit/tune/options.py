"""What tuning is asked for."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any, Literal, get_args

from flops_fit.checks import is_number, is_whole
from flops_fit.errors import InputError, InputTypeError

TuneKind = Literal["none", "pilot", "per-size"]
_KINDS = get_args(TuneKind)
_SHARES = {"none": 0.0, "pilot": 0.15, "per-size": 0.5}


@dataclass(frozen=True)
class Tune:
    """How hyper-parameters are tuned before a sweep.

    Attributes
    ----------
    kind
        ``"pilot"`` tries rates and batches at two sizes and two lengths, and moves the recipe by one
        factor for all runs: its exponents carry it. ``"per-size"`` finds a rate for each size of
        the sweep. ``"none"`` takes the recipe as it is.
    share
        What tuning may take of all FLOPs, those of the sweep included; by default 0.15 for a
        pilot and 0.5 per size.
    step
        The factor between neighbouring rates, and between neighbouring batches.
    batch
        Whether batches are tried too.
    seeds
        Runs with seeds of their own where the noise between seeds is measured, 2 or more; 0 leaves
        it unmeasured.

    Raises
    ------
    InputError
        A value is out of its range.
    """

    kind: TuneKind = "pilot"
    share: float | None = None
    step: float = 2.0
    batch: bool = True
    seeds: int = 3

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise InputError(
                f"tune: expected one of {', '.join(map(repr, _KINDS))}; got {self.kind!r}."
            )
        if self.share is not None and not (is_number(self.share) and 0 < self.share < 1):
            raise InputError(
                f"tune: expected share, of all FLOPs, between 0 and 1; got {self.share!r}."
            )
        if not (is_number(self.step) and 1.2 <= self.step <= 8):
            raise InputError(f"tune: expected step as a factor from 1.2 to 8; got {self.step!r}.")
        if not is_whole(self.seeds) or (self.seeds < 2 and self.seeds != 0):
            raise InputError(
                f"tune: expected seeds as a whole number, 2 or more, or 0; got {self.seeds!r}."
            )

    @property
    def most(self) -> float:
        """``share``, or what is usual for its kind."""
        return _SHARES[self.kind] if self.share is None else self.share


def resolve_tune(tune: Any) -> Tune:
    """A :class:`Tune` from a name or from itself."""
    if isinstance(tune, Tune):
        return tune
    if isinstance(tune, str):
        if tune not in _KINDS:
            near = difflib.get_close_matches(tune, _KINDS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise InputError(
                f"tune: expected one of {', '.join(map(repr, _KINDS))}, or a Tune; got {tune!r}.{hint}"
            )
        return Tune(kind=tune)  # type: ignore[arg-type]
    raise InputTypeError(
        f"tune: expected a name or a flops_fit.tune.Tune; got {type(tune).__name__}."
    )
