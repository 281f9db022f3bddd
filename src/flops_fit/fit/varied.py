"""Which hyper-parameters runs differ in on purpose."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from flops_fit.errors import InputError, InputTypeError
from flops_fit.fit.valley import ValleyPrior
from flops_fit.flops.functions import Bools, Floats
from flops_fit.table.run_table import RunTable

HParamNames = Literal["auto"] | Sequence[str] | ValleyPrior | None

TUNED = ("lr", "batch_units", "weight_decay")
DECAY = TUNED[2]
_FEWEST_RUNS = 20
_VARIES = 0.25  # sd of the log around a smooth rule, from which a setting was varied on purpose
_MOST_KNOWN = 0.8  # share of runs whose setting is known, from which the others are left out


def varied(runs: RunTable) -> tuple[str, ...]:
    """Which of learning rate, batch and weight decay runs of like N and D differ in, on purpose.

    That is where most runs have one, it scatters around a quadratic in ln N and ln D, and in
    N_total/N_active of mixtures of experts, and no single value belongs to each N, each D or each budget.
    Weight decay counts where rate and batch vary too, and it does not follow from them.
    """
    if len(runs) < _FEWEST_RUNS or np.min(runs.loss) <= 0:
        return ()
    names = tuple(name for name in TUNED[:2] if varies(runs, name))
    return TUNED if names == TUNED[:2] and varies(runs, DECAY, names) else names


def known(column: Floats) -> Bools:
    """Where a setting has a value."""
    return np.isfinite(column) & (column > 0)


def varies(runs: RunTable, name: str, beside: tuple[str, ...] = ()) -> bool:
    """Whether runs differ in a setting on purpose, more than as others say ``beside`` N and D."""
    if (column := getattr(runs, name)) is None:
        return False
    kept = np.all([known(getattr(runs, n)) for n in (name, *beside)], axis=0)
    if np.sum(kept) < max(_FEWEST_RUNS, _MOST_KNOWN * len(runs)):
        return False
    runs = runs.select(kept)
    x, y = (np.log(c) - np.mean(np.log(c)) for c in (runs.params, runs.tokens))
    basis = np.column_stack([np.ones(len(x)), x, y, x * x, x * y, y * y])
    if (sparsity := _sparsity(runs)) is not None:  # a recipe may follow N_total, or N_active
        s = np.log(sparsity)
        basis = np.column_stack([basis, s, s * s, s * x, s * y])
    others = [np.log(getattr(runs, n)) for n in beside]
    return _free(np.log(column[kept]), np.column_stack([basis, *others]), runs)


def _sparsity(runs: RunTable) -> Floats | None:
    """N_total/N_active of each run, where it is known of all."""
    found = runs.sparsity
    if found is None and runs.active_params is not None:
        found = runs.params / runs.active_params
    return found if found is not None and np.all(np.isfinite(found) & (found > 0)) else None


def _free(z: Floats, basis: Floats, runs: RunTable) -> bool:
    spare = max(len(z) - basis.shape[1], 1)
    left = z - basis @ np.linalg.lstsq(basis, z, rcond=None)[0]
    if np.sqrt(np.sum(left**2) / spare) < _VARIES:
        return False
    for column in (runs.params, runs.tokens, runs.budget):
        group = np.unique(np.round(np.log(column), 2), return_inverse=True)[1].ravel()
        count = np.bincount(group)
        inside = z - (np.bincount(group, z) / count)[group]
        spare = len(z) - len(count)
        if spare > 0 and np.sqrt(np.sum(inside**2) / spare) < _VARIES / 2:
            return False
    return True


def check_hparams(hparams: HParamNames) -> None:
    """Refuse what is no choice of hyper-parameters."""
    if hparams is None or hparams == "auto" or isinstance(hparams, ValleyPrior):
        return
    if isinstance(hparams, str) or not isinstance(hparams, Sequence):
        raise InputTypeError(
            f"hparams=: expected 'auto', None or names such as {TUNED}; got {hparams!r}."
        )
    if not hparams or set(hparams) - set(TUNED):
        raise InputError(f"hparams=: expected names among {TUNED}; got {list(hparams)}.")
    if DECAY in hparams and len(set(hparams)) < len(TUNED):
        raise InputError(
            f"hparams=: expected {DECAY!r} beside {TUNED[:2]}, with which its effect changes; got "
            f"{list(hparams)}."
        )
