"""How runs are trained: everything about a run that is not its size, length or hyper-parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, cast

from flops_fit.checks import check_number, check_whole
from flops_fit.errors import InputError, InputTypeError
from flops_fit.fingerprint import fingerprint_code
from flops_fit.mup.parametrization import Mup, ParametrizationLike, resolve_mup
from flops_fit.trackers.check import check_trackers
from flops_fit.trackers.tracker import Tracker
from flops_fit.train.checkpoint import check_intervals
from flops_fit.train.compile import Compile
from flops_fit.train.optimizer import MakeOptimizer, ParamGroups
from flops_fit.train.precision import Precision
from flops_fit.train.throughput import Workers

if TYPE_CHECKING:
    from torch.optim import Optimizer


@dataclass(frozen=True, repr=False)
class TrainingConfig:
    """How runs are trained. Values are checked here, before anything is spent.

    Attributes
    ----------
    optimizer
        ``(param_groups, hparams) -> torch.optim.Optimizer``, or an optimizer class, in place of AdamW.
    param_groups
        ``(model, hparams) -> groups`` as torch takes them, each with an optional ``lr_scale``.
    parametrization
        ``"mup"`` or ``Mup(...)`` scales learning rates by width, so that one rate serves all sizes: the
        one that ``hparams`` gives for the smallest size (or ``Mup(base=)``). Planning then checks for
        some seconds whether this holds for the model. ``"standard"`` leaves one rate for all parameters.
    precision
        ``"auto"`` (bfloat16 on CUDA GPUs that have it), ``"fp32"``, ``"bf16"``, or
        ``train.Precision("fp32", tf32=True)``.
    microbatch
        Samples that go through the model at once; halved automatically where memory runs out. It
        changes what fits into memory, never what is computed.
    workers
        Processes that read ahead of each run; no result depends on them. ``"auto"`` takes the
        ``num_workers`` of a DataLoader, else as many as gain time where reading is slow. Runs of a
        pool read for themselves.
    compile
        Whether ``torch.compile`` is used in training; ``"auto"`` on GPUs, for runs of eight minutes
        or more. Where it fails, the run goes on without it and notes it.
    checkpoint_seconds, checkpoint_steps
        When a run keeps a checkpoint: after so much time (more where saving takes long: it gets a
        hundredth of a run's time), and at multiples of so many steps; ``None`` for neither.
    trackers
        What follows each run that is trained here: ``"mlflow"``, ``"tensorboard"``, ``"wandb"``,
        ``"trackio"``, their trackers in :mod:`flops_fit.trackers` with settings, or a
        :class:`flops_fit.trackers.Tracker` of your own; a list of them. They change no run and no id;
        runs that are already finished are not reported again.
    peak_flops
        Peak FLOP/s of the device, for the utilisation (MFU) on record; by default from the data sheets
        of common GPUs.
    branch
        Train one run of each size at a constant rate and cool it down once for every budget, instead of
        one run for each of them (Hägele et al. 2024). This needs sizes that occur at several budgets
        and hyper-parameters that depend on the size alone:
        ``hparams={"schedule": "wsd", "batch_units": 4096, "warmup_units": 20_000}``. On a CPU each
        branch equals, to the last bit, the run that it would have been alone from the same seed. Runs
        that share a trunk share its noise, and intervals count them as one cluster.

    Raises
    ------
    InputError, InputTypeError
        A value cannot be used.
    MissingExtraError
        The package of a tracker is not installed.
    """

    optimizer: MakeOptimizer | type[Optimizer] | None = None
    param_groups: ParamGroups | None = None
    parametrization: ParametrizationLike = "standard"
    precision: str | Precision = "auto"
    microbatch: int | None = None
    workers: Workers = "auto"
    compile: Compile = "auto"
    checkpoint_seconds: float | None = 60.0
    checkpoint_steps: int | None = None
    trackers: str | Sequence[Tracker | str] = ()
    peak_flops: float | None = None
    branch: bool = False

    def __post_init__(self) -> None:
        if self.mup is not None and self.param_groups is not None:
            raise InputError(
                "param_groups: a parametrization makes the groups itself; expected one of the two, got "
                "both. Leave param_groups out, or give parametrization='standard'."
            )
        if self.precision != "auto" and not isinstance(self.precision, Precision):
            Precision(self.precision)  # type: ignore[arg-type]  # refuses what is no precision
        if self.microbatch is not None:
            expected = "a whole number of samples, 1 or more"
            check_whole("microbatch", self.microbatch, expected=expected)
        if self.workers != "auto":
            expected = "'auto' or a whole number of processes, 0 or more"
            check_whole("workers", self.workers, at_least=0, expected=expected)
        if self.compile != "auto" and not isinstance(self.compile, bool):
            raise InputError(f"compile: expected 'auto', True or False; got {self.compile!r}.")
        check_intervals(self.checkpoint_seconds, self.checkpoint_steps)
        object.__setattr__(self, "trackers", check_trackers(self.trackers))
        if self.peak_flops is not None:
            expected = "the peak FLOP/s of the device, such as 312e12, or None"
            check_number("peak_flops", self.peak_flops, above=0, expected=expected)
        if not isinstance(self.branch, bool):
            raise InputTypeError(f"branch: expected True or False; got {self.branch!r}.")

    @property
    def mup(self) -> Mup | None:
        """The options of μP; ``None`` for the standard parametrization."""
        return resolve_mup(self.parametrization)

    @property
    def tracker_objects(self) -> tuple[Tracker, ...]:
        """The trackers, those given by name made with their defaults."""
        return cast("tuple[Tracker, ...]", self.trackers)

    def fingerprints(self, precision: Precision) -> list[str]:
        """Hashes of what changes how runs come out and is not part of their experiments."""
        own = (self.optimizer, self.param_groups)
        out = [fingerprint_code(function) for function in own if function is not None]
        out += [] if precision == Precision() else [repr(precision)]
        # "auto" depends on measured times, and another machine has to find the same runs again.
        return [*out, "compiled"] if self.compile is True else out

    def __repr__(self) -> str:
        changed = {f.name: getattr(self, f.name) for f in fields(self)}
        shown = [
            f"{f.name}={changed[f.name]!r}" for f in fields(self) if changed[f.name] != f.default
        ]
        return f"TrainingConfig({', '.join(shown)})"
