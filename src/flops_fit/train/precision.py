"""The device and the number format that a run computes in."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Literal

from flops_fit.distributed import rank_device
from flops_fit.errors import InputError, InputTypeError
from flops_fit.lazy import torch
from flops_fit.peaks import find_peak

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
