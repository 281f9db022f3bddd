"""How long AdamW remembers: squared gradients by β₂, weights by their decay."""

from __future__ import annotations

from flops_fit.errors import InputError
from flops_fit.recipes._hparams import is_number
from flops_fit.records import ParamCount

__all__ = ["TIMESCALE", "scaled_beta2", "timescale_weight_decay"]

TIMESCALE = "timescale"  # what a weight_decay is called that :func:`timescale_weight_decay` gives


def scaled_beta2(beta2: float, batch_units: float, reference_batch_units: float) -> float:
    """β₂ that remembers as many units at ``batch_units`` as ``beta2`` does at the reference.

    Adam forgets half of a squared gradient after ln ½/ln β₂ steps of B units each. That many units
    stay the same at a batch of B' units with β₂' = β₂^(B'/B)
    (Marek et al. 2025, arXiv:2507.07101).

    For runs of a fraction of that half-life β₂' is so near 1 that the average never settles:
    choose the reference among runs as long as yours.

    Raises
    ------
    InputError
        ``beta2`` is not between 0 and 1, or a batch is not positive.

    Examples
    --------
    >>> round(scaled_beta2(0.95, 250_000, 500_000), 4)
    0.9747
    """
    if not (is_number(beta2) and 0 < beta2 < 1):
        raise InputError(f"beta2: expected a value between 0 and 1; got {beta2!r}.")
    for name, value in (
        ("batch_units", batch_units),
        ("reference_batch_units", reference_batch_units),
    ):
        if not (is_number(value) and value > 0):
            raise InputError(f"{name}: expected a positive number of units; got {value!r}.")
    return float(beta2 ** (batch_units / reference_batch_units))


def timescale_weight_decay(
    lr: float, batch_units: float, params: ParamCount, units: float
) -> float:
    """The weight decay at which AdamW forgets its weights as fast as a run of D units needs.

    Decay λ at rate η makes the weights an average over the last 1/(ηλ) of the run's D/B steps. As
    a share of the run that is the timescale τ = B/(ηλD), and the best one is a power law in units
    per parameter (Bergsma et al. 2025, arXiv:2505.13738):

        τ = 1.084·(D/N)^−0.527, so λ = B/(ηDτ).

    Twice the batch needs twice the decay. It was fitted on language models under muP. Here N is
    ``params.total`` and η the peak rate. An exponent near −0.52 was confirmed elsewhere; the two
    constants to their last digit, the range of the fit and which parameters it counts were not
    checked against the paper. Runs of few steps or of very many units per parameter surely lie
    outside: where 1/(ηλ) falls below one step, the decay does harm.

    Raises
    ------
    InputError
        ``lr``, ``batch_units`` or ``units`` is no positive number.

    Examples
    --------
    >>> params = ParamCount(total=10**8, non_embedding=10**8, matmul=10**8, active=10**8)
    >>> round(timescale_weight_decay(0.002, 2.5e5, params, 2e9), 3)
    0.28
    """
    for name, value in (("lr", lr), ("batch_units", batch_units), ("units", units)):
        if not (is_number(value) and value > 0):
            raise InputError(f"{name}: expected a positive number; got {value!r}.")
    tau = 1.084 * (units / params.total) ** -0.527
    return float(batch_units / (lr * units * tau))
