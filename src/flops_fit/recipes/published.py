"""The recipes that have a name: the default, a baseline, and rules published for language models.

The published rules were fitted on tokens of text. N without embeddings is ``params.non_embedding``,
an output head of its own included. Published warmups in steps or tokens are shortened to a tenth of
the run. Outside the range of a rule its learning rate is neither checked nor bounded.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from flops_fit.errors import InputTypeError, check_choice, check_number
from flops_fit.hparams import HParams
from flops_fit.records import ParamCount

Recipe = Callable[[ParamCount, float, str], HParams]

TIMESCALE = "timescale"  # as a weight_decay: the value of :func:`timescale_weight_decay`


def scaled_beta2(beta2: float, batch_units: float, reference_batch_units: float) -> float:
    """The β₂ that averages over as many units at ``batch_units`` as ``beta2`` at the reference.

    That is β₂^(B'/B) (Marek et al. 2025, arXiv:2507.07101). In runs much shorter than its half-life the
    average never settles: choose a reference among runs as long as yours. InputError where ``beta2`` is
    not between 0 and 1, or a batch is not positive.

    >>> round(scaled_beta2(0.95, 250_000, 500_000), 4)
    0.9747
    """
    check_number("beta2", beta2, above=0, below=1, expected="a value between 0 and 1")
    check_number("batch_units", batch_units, above=0)
    check_number("reference_batch_units", reference_batch_units, above=0)
    return float(beta2 ** (batch_units / reference_batch_units))


def timescale_weight_decay(
    lr: float, batch_units: float, params: ParamCount, units: float
) -> float:
    """The weight decay that gives AdamW the averaging time that suits a run of D units.

    Decay λ at peak rate η averages the weights over the share τ = B/(ηλD) of the run. The best is
    τ = 1.084·(D/N)^−0.527 (Bergsma et al. 2025, arXiv:2505.13738), so λ = B/(ηDτ), N ``params.total``.

    It was fitted on language models under muP; the last digits of its constants, its range and which
    parameters it counts were not checked against the paper. Where 1/(ηλ) is below one step, the decay
    does harm. InputError where ``lr``, ``batch_units`` or ``units`` is not a positive number.

    >>> params = ParamCount(total=10**8, non_embedding=10**8, matmul=10**8, active=10**8)
    >>> round(timescale_weight_decay(0.002, 2.5e5, params, 2e9), 3)
    0.28
    """
    for name, value in (("lr", lr), ("batch_units", batch_units), ("units", units)):
        check_number(name, value, above=0)
    tau = 1.084 * (units / params.total) ** -0.527
    return float(batch_units / (lr * units * tau))


def default(params: ParamCount, units: float, unit: str) -> HParams:
    """For tokens one rule in size and length that holds from toys to billions; else :func:`default_1`.

    η = 0.03·N^−0.5·D^0.3, at most 0.03, and B = 0.003·D^0.8 tokens, N without embeddings. Fitted to two
    valleys at once: the 41 dense cells of Li et al. 2025 (StepLaw, arXiv:2503.04715; N 6e7 to 1e9, D 2e9 to
    1e11), where it costs 0.1 % of the loss on average and 0.5 % at most, and this library's sweeps of a
    GPT over bytes that tuned themselves (N 4e3 to 2e5, D 8e4 to 4e6), where it costs 0.4 % and 1.1 %.
    No power law suits both exactly: each alone has N^−0.7, and their optima lie four decades of N apart.
    Between them it interpolates. StepLaw's mixtures of experts, N of all experts, lose 0.1 % with it. β₂ is
    one constant per step, as the published half-life of 6.8 million tokens is longer than the smallest runs;
    :func:`scaled_beta2` gives one in units.
    """
    if unit != "tokens":
        return default_1(params, units, unit)
    lr = min(0.03, 0.03 * max(params.non_embedding, 1) ** -0.5 * units**0.3)
    batch = max(0.003 * units**0.8, 1.0)
    return HParams(lr=lr, batch_units=batch, beta2=0.98, recipe="default-2")


def default_1(params: ParamCount, units: float, unit: str) -> HParams:
    """The default before it knew the length, and still where D is not in tokens.

    The rate is the line through the sizes of Brown et al. 2020 (arXiv:2005.14165), Table 2.1:
    6e-4·(N/1.25e8)^−0.39, at most 0.02. The batch has the exponent of Li et al. 2025 (StepLaw), D^0.571,
    with a quarter of its constant: short runs need steps more than large batches. β₂ as in
    :func:`default`.
    """
    lr = min(0.02, 6e-4 * (params.non_embedding / 1.25e8) ** -0.39)
    batch = max(0.15 * units**0.571, 1.0)
    return HParams(lr=lr, batch_units=batch, beta2=0.98, recipe="default-1")


def constant(params: ParamCount, units: float, unit: str) -> HParams:
    """The same values for every run whatever its size: an untuned sweep.

    AdamW with the defaults of torch (rate 1e-3, β 0.9/0.999, decay 0.01), on batches of 4,096 tokens or
    128 samples; all else as :func:`default`. It is a baseline: one rate for all sizes bends the fitted
    law (Porian et al. 2024, arXiv:2406.19146, trace a part of Kaplan's exponent to this).
    """
    return HParams(
        lr=1e-3,
        batch_units=4096.0 if unit == "tokens" else 128.0,
        weight_decay=0.01,
        beta2=0.999,
        recipe="constant-1",
    )


_LONGEST_WARMUP = 0.1
_FEWEST_STEPS = 1000.0


def steplaw2025(params: ParamCount, units: float, unit: str) -> HParams:
    """The rate falls with size and rises with length; the batch grows with length only.

    η = 1.79·N^−0.713·D^0.307 and B = 0.58·D^0.571 tokens, N without embeddings (Li et al. 2025,
    arXiv:2503.04715). Fitted on 2e8 to 1e9 parameters and 4e9 to 1e11 tokens, under a cosine that ends at
    1e-5 whatever the peak, after 2,000 steps of warmup; the best run of their grid lies up to a factor of
    two away. β 0.9/0.95, decay 0.1 and clipping at 1 are common values, not theirs. At 20 tokens a
    parameter η exceeds 0.01 below 3e6 parameters, more than many models bear.
    """
    lr = 1.79 * params.non_embedding**-0.713 * units**0.307
    batch = max(0.58 * units**0.571, 1.0)
    return HParams(
        lr=lr,
        batch_units=batch,
        warmup=_share(2000 * batch, units),
        final=min(1e-5 / lr, 1.0),
        recipe="steplaw2025-1",
    )


def deepseek2024(params: ParamCount, units: float, unit: str) -> HParams:
    """Rate and batch from the run's FLOPs only, the same at any split into size and length.

    η = 0.3118·C^−0.125 and B = 0.2920·C^0.3271 tokens (Bi et al. 2024, arXiv:2401.02954, eq. 1), fitted on
    1e17 to 2e19 FLOPs near the best split. Their C counts attention; here C = 6·N·D, N without embeddings,
    0.43 of theirs at 8 layers of width 512 and 0.92 at 80 of 8,192 (their table 3): η is up to 11 %
    higher, B up to 24 % lower.

    Decay 0.1, β 0.9/0.95, clipping at 1 and 2,000 steps of warmup are theirs. Their rate drops to 31.6 %
    after 80 % of the tokens and to 10 % after 90 %; here ``"wsd"`` cools down over the last fifth to a
    tenth, at a mean of 40 % of the peak, theirs 21 %. No batch exceeds a thousandth of the run.
    """
    flops = 6.0 * params.non_embedding * units
    batch = _batch(0.2920 * flops**0.3271, units)
    return HParams(
        lr=0.3118 * flops**-0.125,
        batch_units=batch,
        warmup=_share(2000 * batch, units),
        schedule="wsd",
        cooldown=0.2,
        final=0.1,
        recipe="deepseek2024-1",
    )


_GOPHER_N = (44e6, 117e6, 417e6, 1.4e9, 7.1e9, 70e9, 280e9)
_GOPHER_LR = (6e-4, 6e-4, 2e-4, 2e-4, 1.2e-4, 1e-4, 4e-5)
_GOPHER_BATCH = (0.25e6, 0.25e6, 0.25e6, 0.25e6, 2e6, (1.5e6 * 3e6) ** 0.5, (3e6 * 6e6) ** 0.5)


def chinchilla2022(params: ParamCount, units: float, unit: str) -> HParams:
    """Rate and batch by size, from the models that preceded Chinchilla.

    Power laws join the published sizes, N with embeddings as in their names:

    =============  =====  =====  =====  =====  ======  =========  =======
    N              44M    117M   417M   1.4B   7.1B    70B        280B
    =============  =====  =====  =====  =====  ======  =========  =======
    peak rate      6e-4   6e-4   2e-4   2e-4   1.2e-4  1e-4       4e-5
    batch, tokens  0.25M  0.25M  0.25M  0.25M  2M      1.5M → 3M  3M → 6M
    =============  =====  =====  =====  =====  ======  =========  =======

    All are of Gopher (Rae et al. 2021, arXiv:2112.11446, table 1) but 70B (Hoffmann et al. 2022,
    arXiv:2203.15556, table 4). A batch that doubles is its geometric mean. The cosine falls to a tenth;
    warmup is 1,500 steps, clipping at 1. β 0.9/0.95 and the decay 0.1 are those of Brown et al. 2020.
    Beyond 44M and 280B parameters the last values hold: for small models these rates are far below what
    they bear. No batch exceeds a thousandth of the run.
    """
    batch = _batch(_between(params.total, _GOPHER_BATCH), units)
    return HParams(
        lr=_between(params.total, _GOPHER_LR),
        batch_units=batch,
        warmup=_share(1500 * batch, units),
        final=0.1,
        recipe="chinchilla2022-1",
    )


def porian2024(params: ParamCount, units: float, unit: str) -> HParams:
    """Rate and batch by size, fitted for runs near 20 tokens a parameter at a constant rate.

    η = 0.0047·(N/108e6)^(−1/3) and B = 160·2,048·(N/108e6)^(2/3) tokens: the rounded fits of Porian et al.
    2024 (arXiv:2406.19146), N ``params.matmul``. Fitted on 25M to 110M parameters, used by them from 5M
    to 901M; rates exceed 0.02 below 1.4M.

    Warmup takes N tokens, then the rate is constant, at a higher loss than with a decay:
    ``"schedule": "cosine"`` beside this recipe's name changes only that. β₂ is 0.99 for batches of 128
    sequences of 2,048 tokens or fewer, and 0.95 above, as they found. The decay is 1e-4/η, independent of
    the rate (Wortsman et al. 2023, arXiv:2309.14322). No batch exceeds a thousandth of the run.
    """
    relative = max(params.matmul, 1) / 108e6
    lr = 0.0047 * relative ** (-1 / 3)
    batch = _batch(160 * 2048 * relative ** (2 / 3), units)
    return HParams(
        lr=lr,
        batch_units=batch,
        warmup=_share(params.matmul, units),
        schedule="constant",
        weight_decay=1e-4 / lr,
        beta2=0.95 if batch > 128 * 2048 else 0.99,
        recipe="porian2024-1",
    )


PUBLISHED = {
    recipe.__name__: recipe for recipe in (steplaw2025, deepseek2024, chinchilla2022, porian2024)
}


RECIPES: Mapping[str, Recipe] = {
    "default": default, "default-1": default_1, "constant": constant, **PUBLISHED
}  # fmt: skip


def named(name: Any, argument: str = "hparams") -> Recipe:
    """The recipe of this name; ``argument`` is where the name was given."""
    if not isinstance(name, str):
        raise InputTypeError(
            f"{argument}: expected the name of a recipe, one of {sorted(RECIPES)}; "
            f"got {type(name).__name__}."
        )
    check_choice(argument, name, RECIPES)
    return RECIPES[name]


def _share(warmup_units: float, units: float) -> float:
    """A warmup as a share of the run, shortened where the run is short."""
    return min(warmup_units / units, _LONGEST_WARMUP)


def _batch(published: float, units: float) -> float:
    """A batch that leaves a run its steps, and holds one unit at least."""
    return max(min(published, units / _FEWEST_STEPS), 1.0)


def _between(params: float, values: tuple[float, ...]) -> float:
    """Power laws between the sizes of Gopher and Chinchilla, constant beyond them."""
    return float(np.exp(np.interp(np.log(params), np.log(_GOPHER_N), np.log(values))))
