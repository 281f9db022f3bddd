"""Priors of the valley without the family of runs that is tested."""

from flops_fit.fit.valley import ValleyPrior

# What is left without StepLaw's dense runs: its mixtures of experts, a byte-level GPT, and the
# published rules of others (Bi et al. 2024, Porian et al. 2024, Brown et al. 2020).
WITHOUT_DENSE = ValleyPrior(
    a1=(-0.35, 0.35), a2=(0.2, 0.2), a3=(0.4, 0.15), b1=(0.5, 0.15), b2=(-0.1, 0.2),
    ln_c_lr=(-3.7, 0.9), ln_c_batch=(-4.3, 0.9), skew=(0.0, 0.5), fall=(-0.25, 0.2),
    source="StepLaw's mixtures of experts, a byte-level GPT, rules published by others",
)  # fmt: skip
# Without its mixtures of experts: its dense runs, the byte-level GPT and the same rules.
WITHOUT_EXPERTS = ValleyPrior(
    a1=(-0.5, 0.3), a2=(0.25, 0.15), a3=(0.4, 0.15), b1=(0.57, 0.15), b2=(-0.05, 0.15),
    ln_c_lr=(-3.8, 0.9), ln_c_batch=(-4.2, 0.9), skew=(0.4, 0.4),
    source="StepLaw's dense runs, a byte-level GPT, rules published by others",
)  # fmt: skip
