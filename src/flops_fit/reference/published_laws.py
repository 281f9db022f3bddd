"""Laws as their papers print them."""

from __future__ import annotations

from math import exp
from typing import Literal, overload

from flops_fit.checks import check_choice
from flops_fit.laws.kappa import Hoffmann
from flops_fit.laws.law import Law
from flops_fit.laws.muennighoff import Muennighoff
from flops_fit.laws.optimum import OptimumOnly

_PF_DAY = 8.64e19  # FLOPs: 1e15 a second for a day

_LAWS: dict[str, Law | OptimumOnly] = {
    "hoffmann2022": Hoffmann(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28),
    "besiroglu2024": Hoffmann(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658),
    "muennighoff2023": Muennighoff(
        E=exp(0.6254804),
        A=exp(6.255414),
        B=exp(7.3049974),
        alpha=0.3526596,
        beta=0.3526596,
        R_D=15.387756,
        R_N=5.309743,
    ),
    "kaplan2020": OptimumOnly(
        k_N=1.3e9 / _PF_DAY**0.73,
        a=0.73,
        k_D=2e10 / _PF_DAY**0.27,
        b=0.27,
        size="non-embedding parameters",
        compute="C_min, the least compute for a loss, at batches far below the critical one",
    ),
    "deepseek2024": OptimumOnly(
        k_N=0.1715,
        a=0.5243,
        k_D=5.8316,
        b=0.4757,
        size="non-embedding FLOPs per token",
        compute="C = N·D",
    ),
    "llama3_2024": OptimumOnly(k_N=1 / (6 * 0.299), a=1 - 0.537, k_D=0.299, b=0.537),
}
_SOURCES: dict[str, str] = {
    "hoffmann2022": (
        "Hoffmann et al. 2022, 'Training Compute-Optimal Large Language Models' "
        "(arXiv:2203.15556), eq. 10, approach 3."
    ),
    "besiroglu2024": (
        "Besiroglu et al. 2024, 'Chinchilla Scaling: A replication attempt' (arXiv:2404.10102), "
        "rounded as printed there."
    ),
    "muennighoff2023": (
        "Muennighoff et al. 2023, 'Scaling Data-Constrained Language Models' (arXiv:2305.16264), "
        "with the digits of the authors' repository."
    ),
    "kaplan2020": (
        "Kaplan et al. 2020, 'Scaling Laws for Neural Language Models' (arXiv:2001.08361), "
        "appendix A: N* = 1.3e9·C^0.73, D* = 2e10·C^0.27, C in PF-days."
    ),
    "deepseek2024": (
        "DeepSeek-AI 2024, 'DeepSeek LLM: Scaling Open-Source Language Models with Longtermism' "
        "(arXiv:2401.02954), eq. 4."
    ),
    "llama3_2024": (
        "'The Llama 3 Herd of Models', 2024 (arXiv:2407.21783), §3.2.1; N from C = 6·N·D."
    ),
}
LAW_NAMES = tuple(_LAWS)


def law_source(name: str) -> str:
    """Where the law called ``name`` is published.

    Raises
    ------
    InputError
        No law of that name.
    """
    check_choice("published law", name, _SOURCES)
    return _SOURCES[name]


@overload
def law(name: Literal["hoffmann2022", "besiroglu2024"]) -> Hoffmann: ...
@overload
def law(name: Literal["muennighoff2023"]) -> Muennighoff: ...
@overload
def law(name: Literal["kaplan2020", "deepseek2024", "llama3_2024"]) -> OptimumOnly: ...
@overload
def law(name: str) -> Law | OptimumOnly: ...
def law(name: str) -> Law | OptimumOnly:
    """A published law, ready to answer.

    Surfaces, which know the loss of any N and D:

    - ``"hoffmann2022"``: approach 3 of the Chinchilla paper (arXiv:2203.15556).
    - ``"besiroglu2024"``: the same runs fitted again (arXiv:2404.10102), as published. An exact
      minimum of their stated objective lies slightly lower: ``fit_runs`` finds it.
    - ``"muennighoff2023"``: repeated data (arXiv:2305.16264), fitted to 182 runs on C4. Ask
      ``.with_unique(U)`` where only U tokens are different.

    Optima, which answer ``optimal(C)`` and have no loss (:class:`~flops_fit.laws.OptimumOnly`):

    - ``"kaplan2020"``: N* ∝ C^0.73 (arXiv:2001.08361). N is without embeddings and C is their
      C_min; at the critical batch, where runs take twice C_min, D* ≈ 2·C_min/(6·N*).
    - ``"deepseek2024"``: DeepSeek LLM (arXiv:2401.02954). **N is no count of parameters** but the
      non-embedding FLOPs per token, attention included, so that C = N·D without a factor 6.
    - ``"llama3_2024"``: D* = 0.299·C^0.537 (arXiv:2407.21783), N* = C/(6·D*). The rounded
      constants give 389 billion parameters at 3.8e25 FLOPs where the report says 402.

    Raises
    ------
    InputError
        No law of that name.

    Examples
    --------
    >>> f"{law('hoffmann2022').optimal(5.76e23).params:.3g}"
    '3.22e+10'
    """
    check_choice("published law", name, _LAWS)
    return _LAWS[name]
