"""Laws as their papers print them."""

from __future__ import annotations

from math import exp
from typing import Literal, overload

from flops_fit.errors import InputError
from flops_fit.laws import Hoffmann, Law, Muennighoff

__all__ = ["LAW_NAMES", "law"]

_LAWS: dict[str, Law] = {
    # Hoffmann et al. 2022, arXiv:2203.15556, eq. 10.
    "hoffmann2022": Hoffmann(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28),
    # Besiroglu et al. 2024, arXiv:2404.10102, rounded as printed there.
    "besiroglu2024": Hoffmann(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658),
    # Muennighoff et al. 2023, arXiv:2305.16264, with the digits of the authors' repository.
    "muennighoff2023": Muennighoff(
        E=exp(0.6254804),
        A=exp(6.255414),
        B=exp(7.3049974),
        alpha=0.3526596,
        beta=0.3526596,
        R_D=15.387756,
        R_N=5.309743,
    ),
}
LAW_NAMES = tuple(_LAWS)


@overload
def law(name: Literal["muennighoff2023"]) -> Muennighoff: ...
@overload
def law(name: str) -> Law: ...
def law(name: str) -> Law:
    """A published law, ready to answer.

    - ``"hoffmann2022"``: approach 3 of the Chinchilla paper (arXiv:2203.15556).
    - ``"besiroglu2024"``: the same runs fitted again (arXiv:2404.10102), as published. An exact
      minimum of their stated objective lies slightly lower: ``fit_runs`` finds it.
    - ``"muennighoff2023"``: repeated data (arXiv:2305.16264), fitted to 182 runs on C4. Ask
      ``.with_unique(U)`` where only U tokens are different.

    Raises
    ------
    InputError
        No law of that name.

    Examples
    --------
    >>> f"{law('hoffmann2022').optimal(5.76e23).params:.3g}"
    '3.22e+10'
    """
    if name not in _LAWS:
        raise InputError(f"expected a published law out of {list(_LAWS)}; got {name!r}.")
    return _LAWS[name]
