"""How runs are trained: everything but size, length and hyper-parameters; device and number format."""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Literal, cast

from flops_fit.data.spec import EVAL_SAMPLES
from flops_fit.distributed import rank_device
from flops_fit.errors import InputError, InputTypeError, check_number, check_whole
from flops_fit.fingerprint import fingerprint_code
from flops_fit.lazy import torch
from flops_fit.mup.parametrization import Mup, ParametrizationLike, resolve_mup
from flops_fit.plan.cost import find_peak
from flops_fit.plan.timing import Speed
from flops_fit.records import Experiment
from flops_fit.trackers.tracker import Tracker, check_trackers
from flops_fit.train.optimizer import MakeOptimizer, ParamGroups

Compile = Literal["auto"] | bool
Workers = int | Literal["auto"]

# torch.compile takes a minute on a slow host and gains a quarter at least.
_COMPILE_SECONDS = 480.0
_COMPILE_STEPS = 200
_COMPILE_DEVICES = ("cuda", "xpu")  # on a CPU a small model's step gains little

_HANDOVER_SECONDS = 2e-3  # of a batch from one process to another, on busy cores
_HANDOVER_BYTES = 2e9  # per second, on top
_MIN_GAIN = 0.1  # of a step: measured times vary by nearly as much
_MIN_GAIN_SECONDS = 5.0  # in the whole run, as processes have to be started

# Settings that are numbers, the value that leaves each out, and what is expected of others.
_NUMBERS: tuple[tuple[str, Any, Callable[..., float], str], ...] = (
    ("microbatch", None, check_whole, "a whole number of samples, 1 or more"),
    ("workers", "auto", partial(check_whole, at_least=0), "'auto' or a whole number of processes, 0 or more"),
    ("eval_samples", EVAL_SAMPLES, check_whole, "a whole number of held-out samples, 1 or more"),
    ("checkpoint_seconds", None, partial(check_number, at_least=0), "finite seconds, 0 or more, or None"),
    ("checkpoint_steps", None, check_whole, "a whole number, 1 or more, or None"),
    ("peak_flops", None, partial(check_number, above=0),
     "the peak FLOP/s of the device, such as 312e12, or None"),
)  # fmt: skip


@dataclass(frozen=True, repr=False)
class TrainingConfig:
    """How runs are trained. Values are checked here, before anything is spent.

    InputError or InputTypeError where one cannot be used, MissingExtraError for a tracker's package.

    - ``optimizer``: ``(param_groups, hparams) -> torch.optim.Optimizer``, or an optimizer class, in place
      of AdamW. ``param_groups``: ``(model, hparams) -> groups`` as torch takes them, each with an optional
      ``lr_scale``.
    - ``parametrization``: ``"mup"`` or ``Mup(...)`` scales learning rates by width, so that one rate serves
      all sizes: the one that ``hparams`` gives for the smallest size (or ``Mup(base=)``). Planning then
      takes some seconds to check that this holds. ``"standard"``: one rate for all parameters.
    - ``precision``: ``"auto"`` (bfloat16 on CUDA GPUs that have it), ``"fp32"``, ``"bf16"``, or
      ``train.Precision("fp32", tf32=True)``.
    - ``microbatch``: samples that go through the model at once; halved automatically if memory runs out. It
      never changes what is computed: where parts of a batch have another loss, it is refused.
    - ``workers``: processes that read ahead of each run, not in a pool; no result depends on them.
      ``"auto"`` takes the ``num_workers`` of a DataLoader, else as many as save time if reading is slow.
    - ``compile``: whether training uses ``torch.compile``; ``"auto"`` on GPUs, for runs of eight minutes or
      more. If it fails, the run continues without it and notes it.
    - ``checkpoint_seconds``, ``checkpoint_steps``: when a run keeps a checkpoint: after so much time (more
      if saving would take over a hundredth of the run's time), and at multiples of so many steps; ``None``
      for neither.
    - ``trackers``: what follows each run that is trained here, or a list: ``"mlflow"``, ``"tensorboard"``,
      ``"wandb"``, ``"trackio"``, or a :class:`flops_fit.trackers.Tracker`. They change no run and no id;
      finished runs are not reported again.
    - ``eval_samples``: held-out samples that runs are judged on, at most. Each costs a third of a sample in
      training, and the noise of a loss is that of their mean.
    - ``peak_flops``: peak FLOP/s of the device, for the utilisation (MFU) on record; by default from the
      data sheets of common GPUs.
    - ``branch``: train one run of each size at a constant rate and cool it down once for every budget (Hägele
      et al. 2024). This needs sizes that occur at several budgets and hyper-parameters of the size alone:
      ``hparams={"schedule": "wsd", "batch_units": 4096, "warmup_units": 20_000}``. On a CPU each branch
      equals the run trained alone, to the last bit. Intervals count a trunk as one cluster.
    - ``sharding``: ``"fsdp"`` cuts weights, gradients and the optimizer's state over the ranks of a run, by
      PyTorch's ``fully_shard``, for models that one device cannot hold; ``None`` gives each rank all of them.
      The same losses, up to rounding. Each rank keeps its own checkpoints, for as many ranks.
    - ``stop_hopeless``: stop a run once its forecast says that it ends far above the run in the middle of its
      budget, which is trained first. It then has no loss; :doc:`/howto/forecast` says what that saves.
    - ``activation_checkpointing``: compute the activations of each layer again in its backward pass, instead
      of keeping them. It changes no loss and no count of FLOPs; a step takes about a third longer.
    """

    optimizer: MakeOptimizer | type[torch.optim.Optimizer] | None = None
    param_groups: ParamGroups | None = None
    parametrization: ParametrizationLike = "standard"
    precision: str | Precision = "auto"
    microbatch: int | None = None
    workers: Workers = "auto"
    compile: Compile = "auto"
    checkpoint_seconds: float | None = 60.0
    checkpoint_steps: int | None = None
    trackers: str | Sequence[Tracker | str] = ()
    eval_samples: int = EVAL_SAMPLES
    peak_flops: float | None = None
    branch: bool = False
    sharding: Literal["fsdp"] | None = None
    activation_checkpointing: bool = False
    stop_hopeless: bool = False

    def __post_init__(self) -> None:
        if self.mup is not None and self.param_groups is not None:
            raise InputError(
                "param_groups: a parametrization makes the groups itself; expected one of the two, got "
                "both. Leave param_groups out, or give parametrization='standard'."
            )
        if self.precision != "auto" and not isinstance(self.precision, Precision):
            Precision(self.precision)  # type: ignore[arg-type]  # refuses what is no precision
        if self.compile != "auto" and not isinstance(self.compile, bool):
            raise InputError(f"compile: expected 'auto', True or False; got {self.compile!r}.")
        for name, left_out, check, expected in _NUMBERS:
            if (value := getattr(self, name)) != left_out:
                check(name, value, expected=expected)
        object.__setattr__(self, "trackers", check_trackers(self.trackers))
        for name in ("branch", "activation_checkpointing", "stop_hopeless"):
            if not isinstance(value := getattr(self, name), bool):
                raise InputTypeError(f"{name}: expected True or False; got {value!r}.")
        if self.sharding not in (None, "fsdp"):
            raise InputError(f"sharding: expected 'fsdp' or None; got {self.sharding!r}.")
        if self.stop_hopeless and self.branch:
            raise InputError(
                "stop_hopeless: expected no branch, as runs of one trunk are one run for most of their "
                "steps; got both. Leave one out."
            )
        if self.sharding and self.branch:
            raise InputError(
                "branch: expected no sharding, as a trunk's state is kept whole; got both. Leave one out."
            )

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
        out += [f"at most {self.eval_samples}"] if self.eval_samples != EVAL_SAMPLES else []
        # "auto" depends on measured times, and another machine has to find the same runs again.
        return [*out, "compiled"] if self.compile is True else out

    def __repr__(self) -> str:
        values = ((f, getattr(self, f.name)) for f in fields(self))
        shown = ", ".join(f"{f.name}={value!r}" for f, value in values if value != f.default)
        return f"TrainingConfig({shown})"


def use_compile(
    compile: Compile,
    device: str,
    speed: Speed | None,
    experiment: Experiment,
    left: int,
    ranks: int = 1,
) -> bool:
    """What ``compile="auto"`` means for the ``left`` steps of a run that ``ranks`` processes share."""
    if compile != "auto":
        return compile
    if speed is None or device.partition(":")[0] not in _COMPILE_DEVICES or left < _COMPILE_STEPS:
        return False
    return speed.seconds(experiment) * left / experiment.steps / ranks >= _COMPILE_SECONDS


def reading_workers(
    workers: Workers,
    loader_workers: int | None,
    speed: Speed | None,
    experiment: Experiment,
    ranks: int = 1,
) -> int:
    """Processes that read ahead: the user's DataLoader's, or as many as measured times say that pays."""
    if workers != "auto":
        return workers
    if loader_workers is not None:
        return loader_workers
    if speed is None or speed.reading is None or not speed.reading.on_host or not _forks():
        return 0
    n, reading = experiment.batch_size / ranks, speed.reading
    step = speed.step_seconds(experiment) / ranks
    clock, waiting = reading.seconds * n, reading.waiting * n
    handover = _HANDOVER_SECONDS + reading.size * n / _HANDOVER_BYTES
    share = max(1, cores() // ranks)
    free = share - _busy_cores(speed.device)
    work = clock - waiting
    # Work for which no core is free is done at the expense of the step, wherever it is done.
    at_best = max(step, work / free) if free > 0 else step + work
    count = max(1, min(math.ceil(clock / at_best), share))
    gain = step + clock - max(at_best, clock / count) - handover
    enough = gain >= _MIN_GAIN * (step + clock) and gain * experiment.steps >= _MIN_GAIN_SECONDS
    return count if enough else 0


def cores() -> int:
    """The cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _busy_cores(device: str) -> int:
    """Cores that a step keeps busy: torch's threads, or the one that drives a device."""
    return torch.get_num_threads() if device == "cpu" else 1


def _forks() -> bool:
    """Whether a process started here is a copy of this one."""
    method = multiprocessing.get_start_method(allow_none=True)
    return (method or multiprocessing.get_all_start_methods()[0]) == "fork"


_DEVICES = (
    "'auto', 'cpu' or a torch device of this machine, such as 'cuda', 'cuda:1', 'xpu' or 'mps'"
)


def resolve_device(device: Any) -> str:
    """A device that tensors can be made on, each rank's own; ``"auto"`` is the fastest kind here."""
    if device == "auto":
        kinds = {"cuda": torch.cuda, "xpu": torch.xpu, "mps": torch.backends.mps}
        present = (kind for kind, backend in kinds.items() if backend.is_available())
        return rank_device(next(present, "cpu"))
    if not isinstance(device, str | torch.device):
        raise InputTypeError(f"device: expected {_DEVICES}; got {device!r}.")
    try:
        named = torch.device(device)
        torch.zeros(1, device=named)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"device: expected {_DEVICES}; {str(device)!r} cannot be used here ({reason})."
        ) from error
    if named.type == "meta":
        raise InputError(f"device: expected {_DEVICES}; 'meta' holds no values to train.")
    return rank_device(str(named))


@dataclass(frozen=True)
class Precision:
    """The numbers that a run computes in; parameters and optimizer are always float32.

    ``name`` is ``"fp32"``, or ``"bf16"``: matrix products in bfloat16 under torch's autocast, what needs
    range or sums in float32. ``tf32`` says whether float32 matrix products and convolutions on CUDA may
    round their inputs to 10 bits of mantissa; False turns that off where torch has it on by default.

    >>> precision = Precision("fp32")
    >>> with precision.flags("cpu"), precision.autocast("cpu"):
    ...     pass
    """

    name: Literal["fp32", "bf16"] = "fp32"
    tf32: bool = False

    def __post_init__(self) -> None:
        if self.name not in ("fp32", "bf16"):
            raise InputError(f"precision: expected 'auto', 'fp32' or 'bf16'; got {self.name!r}.")
        if not isinstance(self.tf32, bool):
            raise InputTypeError(f"tf32: expected True or False; got {self.tf32!r}.")

    def autocast(self, device: Any) -> AbstractContextManager[Any]:
        """A fresh context for forward passes and losses; backward passes and steps stay outside."""
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(_kind(device), dtype=torch.bfloat16)

    def flags(self, device: Any) -> AbstractContextManager[None]:
        """The context of a whole run on CUDA: sets torch's TF32 flags for the process, and puts them back."""
        return tf32_flags(self.tf32) if _kind(device) == "cuda" else nullcontext()


def resolve_precision(precision: str | Precision, device: Any) -> Precision:
    """What a name or a :class:`Precision` means on a device; ``"auto"`` is bf16 where it is fast."""
    named: Any = precision
    if precision == "auto":
        named = "bf16" if _has_bf16(device) else "fp32"
    chosen = named if isinstance(named, Precision) else Precision(named)
    if chosen.name == "bf16" and _kind(device) == "cuda" and not _has_bf16(device):
        raise InputError(
            f"precision: expected a device that computes in bfloat16; {device} does not. "
            "Use 'fp32' or 'auto'."
        )
    return chosen


def peak_of(name: str, precision: Precision) -> float | None:
    """Dense FLOP/s of a device by the name that torch gives it; ``None`` if it is not listed."""
    fp32 = "tf32" if precision.tf32 else "fp32"
    rate = getattr(find_peak(name), "bf16" if precision.name == "bf16" else fp32, None)
    return None if rate is None else rate * 1e12


def device_peak(device: str, precision: Precision) -> float | None:
    """Dense FLOP/s of a torch device; ``None`` for CPUs and for devices that are not listed."""
    if _kind(device) != "cuda":
        return None
    return peak_of(torch.cuda.get_device_name(device), precision)


def _kind(device: Any) -> str:
    """``"cuda"`` for ``"cuda:1"`` or a torch device."""
    return str(getattr(device, "type", device)).partition(":")[0]


def _has_bf16(device: Any) -> bool:
    """Whether this is a CUDA device whose hardware computes in bfloat16."""
    if _kind(device) != "cuda":
        return False
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


@contextmanager
def tf32_flags(on: bool) -> Iterator[None]:
    """A context with TF32 on or off, that puts torch's flags back.

    From torch 2.9 on they exist twice and must agree. The old one writes to the new, so it is set first.
    """
    backends = torch.backends
    cudnn: Any = backends.cudnn
    cpu = getattr(backends.mkldnn, "matmul", None)  # products on the CPU follow those on CUDA
    cuda: list[Any] = [backends.cuda.matmul, *(getattr(cudnn, n, None) for n in ("conv", "rnn"))]
    newer = [(p, str(p.fp32_precision)) for p in [*cuda, cpu] if hasattr(p, "fp32_precision")]
    products: str | None = None  # None if it cannot be read: then only the new names count
    convolutions: bool | None = None
    with suppress(RuntimeError):
        products = torch.get_float32_matmul_precision()
    with suppress(RuntimeError):
        convolutions = cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("high" if on else "highest")
        cudnn.allow_tf32 = on
        for part, _ in newer:
            if part is not cpu:
                part.fp32_precision = "tf32" if on else "ieee"
        yield
    finally:
        if products is not None:
            torch.set_float32_matmul_precision(products)
        if convolutions is not None:
            cudnn.allow_tf32 = convolutions
        for part, before in newer:
            part.fp32_precision = before
