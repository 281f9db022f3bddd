"""Coordinates of the κ-law in which what runs leave open is a straight line.

Runs leave open how much of the loss at their middle is E and how much the power term P, and the other
constants follow that along a curve: u, v, ln p and ln q of :mod:`flops_fit.fit.misfit_mean` are
ln(L − E) and constants. Here the law is given by L = E + P, ln P, u − v, the logs of the slopes of L in
ln N and ln D, all at the middle, and ln κ. The change has determinant 1: densities are as they were.
"""

import numpy as np

from flops_fit.flops.functions import Floats

LAW = 6  # coordinates


def straight(eta: Floats) -> Floats:
    """η, (batch, k), in these coordinates; columns after the law's stay."""
    E, u, v, ln_p, ln_q, ln_kappa = eta[:, :LAW].T
    kappa = np.exp(ln_kappa)
    shares = -np.logaddexp(0.0, (v - u) / kappa), -np.logaddexp(0.0, (u - v) / kappa)
    power = u - kappa * shares[0]
    out = eta.copy()
    law = (E + np.exp(power), power, u - v, ln_p + shares[0] + power, ln_q + shares[1] + power)
    out[:, :5] = np.column_stack(law)
    return out


def bent(at: Floats) -> tuple[Floats, Floats]:
    """The inverse of :func:`straight`, and its slopes over the law's coordinates, (batch, 6, 6)."""
    L, power, gap, in_n, in_d, ln_kappa = at[:, :LAW].T
    kappa = np.exp(ln_kappa)
    of_n, of_d = -np.logaddexp(0.0, -gap / kappa), -np.logaddexp(0.0, gap / kappa)
    w, rest = np.exp(of_n), np.exp(of_d)
    out = at.copy()
    u, v = power + kappa * of_n, power + kappa * of_d
    out[:, :5] = np.column_stack(
        (L - np.exp(power), u, v, in_n - of_n - power, in_d - of_d - power)
    )
    J = np.zeros((len(at), LAW, LAW))
    J[:, range(LAW), range(LAW)] = 1.0
    J[:, 0, 1], J[:, 1, 1], J[:, 2, 1], J[:, 3:5, 1] = -np.exp(power), 1.0, 1.0, -1.0
    J[:, 1, 2], J[:, 2, 2], J[:, 3, 2], J[:, 4, 2] = rest, -w, -rest / kappa, w / kappa
    J[:, 1, 5], J[:, 2, 5] = kappa * of_n - gap * rest, kappa * of_d + gap * w
    J[:, 3, 5], J[:, 4, 5] = gap * rest / kappa, -gap * w / kappa
    return out, J
