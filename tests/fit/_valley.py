"""Sweeps that vary learning rate and batch on a known valley."""

import numpy as np

from flops_fit.fit.valley import regret
from flops_fit.laws import Hoffmann

LAW = Hoffmann(1.7, 0.8 * 1e8**0.35, 0.8 * 2e9**0.35, 0.35, 0.35)
# a₀ … a₃, b₀ … b₂, ln c_η, ln c_B, s, f, d₀ … d₂, ln c_τ; ln N, ln D, ln η, ln B, ln τ are from the middles.
VALLEY = np.array([[-0.1, -0.71, 0.33, 0.38, -0.2, 0.67, -0.24, -5.0, -5.2, 0.36, -0.25]])
VALLEY = np.hstack([VALLEY, [[0.3, -0.45, 0.4, -5.0]]])
MIDDLES = np.array([19.6, 23.4, -6.2, 12.9, -1.6])


def logs(*columns):
    return [np.log(np.atleast_1d(c)) - m for c, m in zip(columns, MIDDLES, strict=False)]


def rule(N, D):
    x, y = np.log(N) - MIDDLES[0], np.log(D) - MIDDLES[1]
    a0, a1, a2, _, b0, b1, b2, *_ = VALLEY[0]
    return np.exp(MIDDLES[2] + a0 + a1 * x + a2 * y), np.exp(MIDDLES[3] + b0 + b1 * y + b2 * x)


def memory(N, D):
    """The best share of a run over which AdamW averages."""
    d0, d1, d2, _ = VALLEY[0, 11:]
    return np.exp(MIDDLES[4] + d0 + d1 * (np.log(D) - MIDDLES[1]) + d2 * (np.log(N) - MIDDLES[0]))


def sweep(lr=2e-3, batch=2.0**19, jitter=3.0, noise=0.002, seed=0, decay=None):
    """A 5×7 sweep at one rate and batch, each times something within ``jitter``; its decay too, if given."""
    rng = np.random.default_rng(seed)
    C = np.repeat(np.geomspace(1e18, 1e20, 5), 7)
    N = LAW.optimal(C).params * np.tile(np.geomspace(1 / 6, 6, 7), 5)
    D = C / (6 * N)
    each = np.log(jitter) * rng.uniform(-1, 1, (2, len(N)))
    lr, batch = lr * np.exp(each[0]), batch * np.exp(each[1])
    columns = {"lr": lr, "batch_tokens": batch}
    settings = [lr, batch]
    if decay is not None:
        decay = decay * np.exp(np.log(jitter) * rng.uniform(-1, 1, len(N)))
        columns["weight_decay"] = decay
        settings.append(batch / (lr * decay * D))
    R = regret(VALLEY, *logs(N, D, *settings)).value[0]
    loss = LAW.loss(N, D) * np.exp(R + noise * rng.normal(size=len(N)))
    return {"params": N, "tokens": D, "flops": C, "loss": loss, **columns}
