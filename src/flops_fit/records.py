"""The nouns that travel through the library: Experiment, Run, Diagnostic.

N counts parameters, D units (target tokens, or samples), C training FLOPs; L is the held-out loss.
Under warmup–stable–decay, runs of one model that differ only in length share a trunk until the
first cools down; each cool-down is a branch (Hägele et al. 2024, arXiv:2405.18392).
"""

import functools
import hashlib
import json
import math
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, get_origin

import msgspec
import numpy as np

from flops_fit.errors import TableError
from flops_fit.hparams import HParams
from flops_fit.text import clause, fill

Severity = Literal["ok", "note", "warning", "critical"]
RunState = Literal[
    "planned", "running", "hopeless", "completed", "diverged", "oom", "failed", "preempted"
]  # fmt: skip
T = TypeVar("T")
_DECIDES_TRUNK = ("model", "model_kwargs", "size", "batch_size", "seed", "repeat", "fingerprint")
_DECIDES = (*_DECIDES_TRUNK, "budget", "tokens", "steps")
_BRANCH_ONLY = frozenset({"cooldown", "final", "recipe", "batch_units"})  # before rounding

_MOST_SHARED = 0.95  # the loss on record is a mean over the last twentieth, which a trunk has not


@dataclass(frozen=True)
class ParamCount:
    """The size N of a model under each convention in use.

    ``total`` is every parameter, shared ones once; ``non_embedding`` leaves out the weights of
    ``torch.nn.Embedding`` (Kaplan et al. 2020); ``matmul`` are those that multiply activations: what 6ND
    should be fed with. ``active`` are those that one unit passes through, fewer for a mixture of experts.
    ``width`` is the number of inputs that most weights share, over all layers that multiply: a
    transformer's embedding dimension; 0 where a model shows no layers.
    """

    total: int
    non_embedding: int
    matmul: int
    active: int
    width: int = 0


@dataclass(frozen=True)
class Diagnostic:
    """One finding about a plan or a fit: how bad, what (begun small, no full stop), and what to do."""

    code: str
    severity: Severity
    message: str
    action: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", clause(self.message))

    def __str__(self) -> str:
        text = f"[{self.severity}] {self.message}"
        return f"{text} → {self.action}" if self.action else text


class Findings:
    """Findings in the words of a TOML file: ``severity``, ``message``, perhaps ``action`` and ``code``."""

    def __init__(self, path: Path) -> None:
        self._words = tomllib.loads(path.read_text(encoding="utf-8"))

    def __call__(
        self, key: str, severity: Severity | None = None, act: bool = True, /, **values: Any
    ) -> Diagnostic:
        """The finding under a heading, ``values`` in its words, graded there unless it is here.

        An ok one asks for nothing, nor does one without ``act``.
        """
        words = self._words[key]
        how: Severity = severity or words["severity"]
        action = words.get("action", "") if act and how != "ok" else ""
        raw = (words.get("code", key), words["message"], action)
        code, *texts = (fill(text, values) for text in raw)
        return Diagnostic(code, how, *texts)


SAID_BY_FIT = ("small_grid", "repeated_data")  # so that a plan need not say it of all runs
SIMULATED = Diagnostic(
    "simulated",
    "warning",
    "the losses are simulated by a known law: no model was trained",
    "train the models before you use any of these numbers",
)


@dataclass(frozen=True)
class Experiment:
    """One training run as planned: a size N, a number of units D and how to train.

    ``flops`` are within 1 % of ``budget``. Runs of one ``trunk`` are the same up to their cool-downs and
    may share them, with the same result: ``trunk`` is not part of ``id``.
    """

    model: str
    model_kwargs: Mapping[str, Any]
    size: Any
    params: ParamCount
    budget: float
    tokens: int
    steps: int
    batch_size: int
    units_per_sample: float
    unit: str
    flops_per_unit: float
    flops_per_unit_6nd: float
    hparams: HParams
    seed: int
    repeat: int
    fingerprint: str
    epochs: float | None = None
    trunk: str = ""

    @property
    def flops(self) -> float:
        """Training FLOPs of the whole run, C = F(N)·D."""
        return self.flops_per_unit * self.tokens

    @property
    def flops_per_sample(self) -> float:
        """Training FLOPs that one sample costs, all its units together."""
        return self.flops_per_unit * self.units_per_sample

    @functools.cached_property
    def id(self) -> str:
        """SHA-256, first 16 hex digits, of everything that decides the outcome of the run."""
        return _digest(self, _DECIDES, self.hparams.to_dict())

    @property
    def label(self) -> str:
        """A readable name of budget, size and the number of a repeat."""
        parts = self.size.values() if isinstance(self.size, Mapping) else [self.size]
        text = f"C={self.budget:.3g} size={'-'.join(map(str, parts))}"
        return f"{text} #{self.repeat}" if self.repeat else text

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; :meth:`from_dict` reads them back."""
        return {"id": self.id, **asdict(self), "hparams": self.hparams.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` wrote; a record whose id does not match was edited."""
        record = as_record(values, dict[str, Any], "a run's record")
        what = f"the record of run {record.get('id')}"
        try:
            hparams = HParams.from_dict(dict(record["hparams"]))
        except (ValueError, TypeError, KeyError) as error:
            raise TableError(f"{what} was edited: {error}") from error
        experiment = as_record({**record, "hparams": hparams}, cls, what)
        if not re.fullmatch("([0-9a-f]{16})?", experiment.trunk):  # it names a folder
            raise TableError(f"{what} was edited: its trunk is {experiment.trunk!r:.80}.")
        if "id" in values and values["id"] != experiment.id:
            raise TableError(
                f"the record of run {values['id']} does not match its own id ({experiment.id}): "
                "it was edited or torn. Set the file aside and run the experiment again."
            )
        return experiment


@dataclass(frozen=True)
class Run:
    """The result of an :class:`Experiment`.

    ``flops`` (by the plan's convention) and ``tokens`` are those on the path to its loss; another run of
    its trunk spent ``flops_shared`` of them. ``seconds`` is the time of this run alone. ``loss`` is the
    held-out loss at its end with standard error ``loss_se``; ``train_loss`` and ``gradient_norm`` (before
    clipping) are means over the last twentieth of the steps. ``reason`` says why a run did not complete,
    ``details`` holds a traceback. ``mfu`` is the model FLOPs utilisation in its steps, ``None`` without a
    known peak. ``parametrization`` is ``"mup"`` where rates are scaled by width. ``microbatch`` counts the
    samples in one pass, ``ranks`` the processes, ``resumed`` the restarts. ``noise_scale`` is the gradient
    noise scale in units, if measured; ``spikes`` are (step, loss) of jumps of the training loss. ``metrics``
    are the values of ``find_optimal(metrics=)``. A ``hopeless`` run was stopped, as its held-out loss would
    have been ``loss_at_least`` or more.
    """

    experiment: Experiment
    state: RunState
    reason: str = ""
    details: str = ""
    loss: float | None = None
    loss_se: float | None = None
    train_loss: float | None = None
    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    device: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    units_per_second: float = 0.0
    microbatch: int = 0
    ranks: int = 1
    resumed: int = 0
    spikes: tuple[tuple[int, float], ...] = ()
    notes: tuple[str, ...] = ()
    gradient_norm: float | None = None
    mfu: float | None = None
    flops_shared: float = 0.0
    noise_scale: float | None = None
    parametrization: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    loss_at_least: float | None = None

    @property
    def measured(self) -> float | None:
        """The loss of a completed run that says what it was trained on; ``None`` for any other."""
        known = self.state == "completed" and min(self.tokens, self.flops) > 0
        return self.loss if known and self.loss is not None and math.isfinite(self.loss) else None

    @property
    def flops_6nd(self) -> float:
        """6·N·D with N every parameter (Hoffmann et al. 2022, appendix F, and most tables)."""
        return self.experiment.flops_per_unit_6nd * self.tokens

    @property
    def flops_6nd_matmul(self) -> float:
        """6·N·D with N the parameters that multiply activations, so no embedding tables."""
        return 6.0 * self.experiment.params.matmul * self.tokens

    @property
    def flops_6nd_non_embedding(self) -> float:
        """6·N·D with N without embeddings (Kaplan et al. 2020, §2.1)."""
        return 6.0 * self.experiment.params.non_embedding * self.tokens

    @property
    def samples(self) -> int:
        """Samples trained on, repeats included."""
        e = self.experiment
        whole = self.state == "completed"
        return e.batch_size * e.steps if whole else round(self.flops / e.flops_per_sample)

    @property
    def epochs(self) -> float | None:
        """Passes over the data; ``None`` if its size is unknown, as for streams."""
        size = self._data_size
        return None if size is None else self.samples / size

    @property
    def unique_tokens(self) -> int | None:
        """Units seen for the first time, U = min(D, units in the data); ``None`` as for :attr:`epochs`."""
        size, samples = self._data_size, self.samples
        if size is None:
            return None
        if samples <= size:
            return self.tokens
        per_sample = self.experiment.units_per_sample
        counted = self.tokens / round(samples * per_sample)  # exactly 1 if nothing is masked
        return round(size * per_sample * counted)

    @property
    def repeated_tokens(self) -> int | None:
        """Units seen again, D − U; ``None`` as for :attr:`epochs`."""
        unique = self.unique_tokens
        return None if unique is None else self.tokens - unique

    @property
    def _data_size(self) -> int | None:
        e = self.experiment
        return round(e.batch_size * e.steps / e.epochs) if e.epochs else None

    @property
    def flops_spent(self) -> float:
        """FLOPs that this run computed itself."""
        return self.flops - self.flops_shared

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; :meth:`from_dict` reads them back."""
        return {**asdict(self), "experiment": self.experiment.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` wrote."""
        record = as_record(values, dict[str, Any], "a run's record")
        experiment = Experiment.from_dict(record.get("experiment", {}))
        what = f"the record of run {experiment.id}"
        run = as_record({**record, "experiment": experiment}, cls, what)
        if run.state == "completed" and run.loss is None:
            raise TableError(f"{what} was edited: it completed without a loss.")
        return run


def _digest(experiment: Experiment, names: Iterable[str], hparams: Mapping[str, Any]) -> str:
    decides = {**{name: getattr(experiment, name) for name in names}, "hparams": hparams}
    return hashlib.sha256(canonical_json(decides).encode()).hexdigest()[:16]


def as_record(values: Any, kind: type[T], what: str) -> T:
    """Plain values as a dataclass, each of the type of its field, such as arrays; else TableError."""
    try:
        return msgspec.convert(values, kind, dec_hook=_array)
    except (msgspec.ValidationError, RecursionError) as error:
        raise TableError(f"{what} is torn or was edited: {error}.") from error


def _array(kind: Any, value: Any) -> Any:
    if get_origin(kind) is not np.ndarray:
        raise TypeError(f"expected no {kind.__name__} in a file")
    return np.array(value, dtype=np.float64)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text on every machine."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)


def finite_json(value: Any) -> Any:
    """Nested values as plain ones, with ``None`` for every number that is not finite.

    Dataclasses are dicts of their fields, where they have no ``to_dict``, and arrays are lists.
    """
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(k): finite_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite_json(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if hasattr(value, "to_dict"):
        return finite_json(value.to_dict())
    return finite_json(vars(value)) if is_dataclass(value) else value


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    if hasattr(value, "__qualname__"):
        return f"{getattr(value, '__module__', '')}.{value.__qualname__}"
    return f"{type(value).__module__}.{type(value).__qualname__}:{value}"


def trunk_of(experiment: Experiment) -> str:
    """A hash of all that decides a run until its cool-down: 16 hex digits."""
    return _digest(experiment, _DECIDES_TRUNK, trunk_hparams(experiment.hparams))


def trunk_hparams(hparams: HParams) -> dict[str, Any]:
    """The hyper-parameters that decide a trunk."""
    return {name: value for name, value in hparams.to_dict().items() if name not in _BRANCH_ONLY}


def branch_step(experiment: Experiment) -> int:
    """Steps after which a run leaves its trunk, at most 95 % of all; 0 if it has none."""
    if not experiment.trunk:
        return 0
    share = min(1 - experiment.hparams.cooldown, _MOST_SHARED)
    return math.floor(share * experiment.steps)


def by_trunk(experiments: Iterable[Experiment]) -> list[list[Experiment]]:
    """The experiments of each trunk, shortest first; those without a trunk stand alone."""
    groups: dict[str, list[Experiment]] = defaultdict(list)
    for experiment in experiments:
        groups[experiment.trunk or experiment.id].append(experiment)
    return [sorted(group, key=lambda e: (branch_step(e), e.steps)) for group in groups.values()]


def shared_steps(experiments: Iterable[Experiment]) -> dict[str, int]:
    """By id, the steps of each run that a shorter one of its trunk makes before it."""
    shared = {}
    for group in by_trunk(experiments):
        before = 0
        for experiment in group:
            shared[experiment.id] = before
            before = branch_step(experiment)
    return shared


def own_flops(experiments: Iterable[Experiment]) -> dict[str, float]:
    """By id, the FLOPs of each run after what shorter runs of its trunk have computed."""
    listed = list(experiments)
    shared = shared_steps(listed)
    return {e.id: e.flops * (1 - shared[e.id] / e.steps) for e in listed}
