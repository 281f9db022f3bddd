"""Errors that the runs of one budget share: an order of data, a rate tuned for it, a day's code.

Such runs are no independent evidence of how the loss falls with compute. Residuals show it where the
means of budgets differ by more than the scatter within budgets explains, and not smoothly with compute.
"""

import numpy as np

from flops_fit.fit.solver import Solution, finding
from flops_fit.records import Diagnostic
from flops_fit.table.run_table import RunTable

_LEVEL, _SHARE = (
    1e-3,
    0.5,
)  # of the test, and of the variance, from which on an error counts as shared
_SPARE = 5  # degrees of freedom within budgets


def shared_error(solution: Solution, runs: RunTable) -> list[Diagnostic]:
    """Whether runs of one budget share an error, by a variance component of budgets.

    What a constant of each budget explains of the residuals, beyond the law's own slopes and a bend in
    ln C, is compared with what is left (an F-test). Runs of one trunk or seed share theirs by design.
    """
    from scipy.special import fdtrc

    kept = np.flatnonzero(solution.weights)
    if solution.points.groups is not None or solution.residual_sd < 1e-9:
        return []
    budget, t = runs.budget[kept], np.log(runs.flops[kept])
    root = np.sqrt(solution.weights[kept])[:, None]
    law = root * np.column_stack([solution.jacobian[kept], (t - t.mean()) ** 2])
    Q = np.linalg.qr(law / np.maximum(np.linalg.norm(law, axis=0), 1e-300))[0]
    own = root * np.equal.outer(budget, np.unique(budget))
    own = own - Q @ (Q.T @ own)
    values, vectors = np.linalg.eigh(own.T @ own)
    real = values > 1e-8 * max(float(values[-1]), 1e-300)
    more = int(np.sum(real))
    spare = len(kept) - Q.shape[1] - more
    if more < 1 or spare < _SPARE:
        return []
    r = root[:, 0] * solution.residuals[kept]
    r = r - Q @ (Q.T @ r)
    explained = (vectors[:, real].T @ (own.T @ r)) ** 2 / values[real]
    within = max(float(r @ r - np.sum(explained)) / spare, 1e-300)
    between = float(np.sum(explained)) / more
    # The mean square between budgets is that of a run alone and so much of the shared variance.
    shared = max(between - within, 0.0) / (float(np.sum(values[real])) / more)
    alone, p = within / float(np.mean(root**2)), float(fdtrc(more, spare, between / within))
    if p > _LEVEL or shared < _SHARE * (shared + alone):
        return []
    percent = (100 * solution.points.unit * np.sqrt([shared, alone])).tolist()
    return [finding("shared_errors", p=p, shared=percent[0], alone=percent[1])]
