"""Laws as their papers print them."""

from __future__ import annotations

from flops_fit.errors import InputError
from flops_fit.laws import Hoffmann, Law

__all__ = ["LAW_NAMES", "law"]

_LAWS: dict[str, Law] = {
    # Hoffmann et al. 2022, arXiv:2203.15556, eq. 10.
    "hoffmann2022": Hoffmann(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28),
    # Besiroglu et al. 2024, arXiv:2404.10102, rounded as printed there.
    "besiroglu2024": Hoffmann(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658),
}
LAW_NAMES = tuple(_LAWS)


def law(name: str) -> Law:
    """A published law, ready to answer.

    - ``"hoffmann2022"``: approach 3 of the Chinchilla paper (arXiv:2203.15556).
    - ``"besiroglu2024"``: the same runs fitted again (arXiv:2404.10102), as published. An exact
      minimum of their stated objective lies slightly lower: ``fit_runs`` finds it.

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
