"""Which column is which: the usual headings, those of experiment trackers, and the user's own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from flops_fit.errors import InputTypeError, TableError

__all__ = ["HORIZON", "NUMERIC", "Found", "check_mapping", "find_numbers", "find_text", "wanted"]

Kind = Literal["", "number", "text"]
Wanted = Callable[[str], Kind]

NUMERIC: dict[str, frozenset[str]] = {
    name: frozenset(headings.split())
    for name, headings in {
        "params": "params n num_params n_params parameters num_parameters n_parameters param_count "
        "parameter_count model_size model_params total_params",
        "tokens": "tokens d num_tokens n_tokens training_tokens train_tokens total_tokens "
        "tokens_seen samples",
        "flops": "flops c compute training_flops train_flops total_flops num_flops",
        "loss": "loss l final_loss val_loss eval_loss valid_loss validation_loss test_loss "
        "final_val_loss final_eval_loss heldout_loss held_out_loss train_loss training_loss "
        "final_train_loss",
        "budget": "budget compute_budget flops_budget c_budget",
        "loss_se": "loss_se loss_stderr se stderr",
        "non_embedding": "non_embedding non_embedding_params n_non_embedding",
        "unique_tokens": "unique_tokens d_unique",
    }.items()
}
# How far a run was meant to go; each is compared with how far it came.
HORIZON = {"planned_flops": "flops", "planned_tokens": "tokens", "planned_steps": "step"}
_ALL = {
    **NUMERIC,
    **{name: frozenset([name]) for name in HORIZON},
    "step": frozenset(["step", "global_step"]),
}
_TEXT: dict[str, tuple[str, ...]] = {
    "label": ("label", "name", "run_name", "runname", "display_name", "run_id", "id"),
    "state": ("state", "status", "run_state"),
    "cluster": ("cluster",),
}
# Where trackers keep values: W&B's config.x and summary.x, MLflow's params.x and metrics.x.
_SCOPES = frozenset(
    [
        "config",
        "summary",
        "summary_metrics",
        "metrics",
        "metric",
        "params",
        "param",
        "hparams",
        "tags",
        "mlflow",
        "attributes",
        "data",
        "info",
        "run",
    ]
)
_HELD_OUT = frozenset(
    ["val", "valid", "validation", "eval", "evaluation", "test", "dev", "heldout", "held"]
)
_TRAINING = frozenset({"train", "training"})


@dataclass(frozen=True)
class Found:
    """The column that holds a quantity, and what to tell about that choice."""

    column: str
    note: str = ""


@dataclass(frozen=True, order=True)
class _Rank:
    """How well a heading names a quantity; the least is the best."""

    purpose: int
    closeness: int


def check_mapping(mapping: object) -> dict[str, str]:
    """``columns=`` as a dict from our names to headings.

    Raises
    ------
    InputTypeError
        It is no mapping.
    TableError
        It names something that is no column of a table of runs.
    """
    if not isinstance(mapping, Mapping):
        raise InputTypeError(
            f"columns=: expected a dict such as {{'params': 'n_weights'}}; "
            f"got {type(mapping).__name__}."
        )
    unknown = sorted(str(name) for name in mapping if name not in _ALL)
    if unknown:
        raise TableError(f"columns= maps {unknown}; it may map {list(_ALL)}.")
    return {str(name): str(heading) for name, heading in mapping.items()}


def wanted(mapping: Mapping[str, str]) -> Wanted:
    """What a heading may hold for us, so that no other column is kept in memory."""
    own = frozenset(mapping.values())

    def kind(heading: str) -> Kind:
        if heading in own or any(_rank(name, heading) for name in _ALL):
            return "number"
        return "text" if any(_is_text(name, heading) for name in _TEXT) else ""

    return kind


def find_numbers(
    headings: Sequence[str],
    filled: Sequence[str],
    mapping: Mapping[str, str],
    names: Iterable[str] = NUMERIC,
) -> dict[str, Found]:
    """The column of each quantity that the table has.

    Parameters
    ----------
    headings
        All headings, in order.
    filled
        Those under which there is any value; an empty column is taken only if nothing else fits.
    mapping
        What the user said.
    names
        The quantities to look for.

    Raises
    ------
    TableError
        Two columns are equally good, or ``mapping`` names a column that is not there.
    """
    found = {}
    for name in names:
        if name in mapping:
            if mapping[name] not in headings:
                raise TableError(
                    f"columns= names {mapping[name]!r} for {name}; the table has {list(headings)}."
                )
            found[name] = Found(mapping[name])
            continue
        taken = {heading for other, heading in mapping.items() if other != name}
        ranks = {h: _rank(name, h) for h in headings if h not in taken}
        candidates = {h: rank for h, rank in ranks.items() if rank is not None}
        candidates = {h: r for h, r in candidates.items() if h in filled} or candidates
        if candidates:
            found[name] = _best(name, candidates)
    return found


def find_text(name: str, headings: Sequence[str]) -> str | None:
    """The column of labels, states or clusters; the first of the usual headings that is there."""
    for usual in _TEXT[name]:
        for heading in headings:
            if _plain(heading) == usual:
                return heading
    return None


def _best(name: str, candidates: Mapping[str, _Rank]) -> Found:
    best = min(candidates.values())
    ties = [heading for heading, rank in candidates.items() if rank == best]
    if len(ties) > 1:
        raise TableError(
            f"{ties} could each be {name}; say which: columns={{{name!r}: {ties[0]!r}}}."
        )
    others = [h for h, rank in candidates.items() if rank.purpose > best.purpose]
    if name == "loss" and best.purpose == 0 and others:
        return Found(ties[0], f"The loss is {ties[0]!r}, which is held out; {others} is not used.")
    if name == "loss" and best.purpose == 2:
        return Found(
            ties[0],
            f"The loss {ties[0]!r} is a training loss: it is noisier than a held-out one, and "
            "lower where data repeats.",
        )
    if best.closeness == 3:
        return Found(ties[0], f"The column {ties[0]!r} was taken for {name}.")
    return Found(ties[0])


def _rank(name: str, heading: str) -> _Rank | None:
    """``None`` where the heading does not name the quantity."""
    words = set(re.split(r"[_./:]+", _normal(heading)))
    held_out, training = bool(words & _HELD_OUT), bool(words & _TRAINING)
    purpose = 0
    if name == "loss":
        purpose = 0 if held_out else 2 if training else 1
    usual, plain = _ALL[name], _plain(heading)
    last = _parts(heading)[-1]
    if heading == name:
        return _Rank(purpose, 0)
    if _normal(heading) in usual:
        return _Rank(purpose, 1)
    if name != "loss" and held_out:
        return None  # the tokens of an evaluation are not those of the training
    if plain in usual:
        return _Rank(purpose, 2)
    # A lone letter at the end of a path, such as attention/n, says too little.
    return _Rank(purpose, 3) if len(last) > 1 and last in usual else None


def _is_text(name: str, heading: str) -> bool:
    return _plain(heading) in _TEXT[name]


def _normal(heading: str) -> str:
    return re.sub(r"[\s\-]+", "_", heading.strip().lower())


def _parts(heading: str) -> list[str]:
    """The components of a path such as ``summary.val/loss``, without the tracker's own first ones."""
    parts = [part for part in re.split(r"[./:]+", _normal(heading)) if part] or [""]
    while len(parts) > 1 and parts[0] in _SCOPES:
        parts = parts[1:]
    if len(parts) == 1:
        for scope in ("config_", "summary_", "metrics_"):
            parts = [parts[0].removeprefix(scope)]
    return parts


def _plain(heading: str) -> str:
    return "_".join(_parts(heading))
