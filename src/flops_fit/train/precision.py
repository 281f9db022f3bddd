"""In what numbers a run computes, and whether compiling it pays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Literal

from flops_fit.distributed import rank_device
from flops_fit.errors import InputError, InputTypeError


def resolve_device(device: Any) -> str:
    """A device that tensors can be made on, each rank's own where several were launched.

    ``"auto"`` is the first of CUDA, Intel's XPU, Apple's MPS and the CPU that this machine has.

    Raises
    ------
    InputError, InputTypeError
        There is no such device here, or it holds no values.
    """
    import torch

    if device == "auto":
        if torch.cuda.is_available():
            return rank_device("cuda")
        if torch.xpu.is_available():
            return rank_device("xpu")
        return rank_device("mps") if torch.backends.mps.is_available() else "cpu"
    expected = (
        "Expected 'auto', 'cpu' or a torch device of this machine, such as 'cuda', 'cuda:1', 'xpu' or "
        "'mps'."
    )
    if not isinstance(device, str | torch.device):
        raise InputTypeError(f"device: got {device!r}. {expected}")
    try:
        named = torch.device(device)
        torch.zeros(1, device=named)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"device: {str(device)!r} cannot be used here ({reason}). {expected}"
        ) from error
    if named.type == "meta":
        raise InputError(f"device: 'meta' holds no values, so nothing trains there. {expected}")
    return rank_device(str(named))


@dataclass(frozen=True)
class Precision:
    """The numbers that a run computes in; parameters and optimizer are float32 in any case.

    Attributes
    ----------
    name
        ``"fp32"``, or ``"bf16"``: matrix products in bfloat16 under torch's autocast, while what
        needs range or sums stays in float32. bfloat16 has the range of float32, so nothing is scaled.
    tf32
        Whether float32 matrix products and convolutions on CUDA may round their inputs to 10 bits
        of mantissa. False turns it off for convolutions too, where torch has it on by default:
        ``"fp32"`` then means what it says.

    Examples
    --------
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
        """The context of every forward pass and loss, in training and in evaluation.

        The backward pass and the optimizer's step belong outside; they follow the types that
        the forward pass chose. A fresh context is needed each time.
        """
        if self.name == "fp32":
            return nullcontext()
        import torch

        return torch.autocast(_kind(device), dtype=torch.bfloat16)

    @contextmanager
    def flags(self, device: Any) -> Iterator[None]:
        """The context of a whole run: sets torch's TF32 flags and puts them back.

        The flags hold for the process, so runs that share one must agree; products on the CPU
        follow too while the context lasts. Only CUDA runs ask for it: for those on other devices
        nothing is touched, as there the same flags choose other roundings.
        """
        if _kind(device) != "cuda":
            yield
            return
        kept = _TF32Flags.read()
        try:
            _TF32Flags.set(self.tf32)
            yield
        finally:
            kept.restore()


def resolve_precision(precision: str | Precision, device: Any, *, tf32: bool = False) -> Precision:
    """What ``"auto"``, a name or a :class:`Precision` means on a device.

    ``"auto"`` is bf16 on a CUDA device whose hardware computes in it, and fp32 elsewhere: on CPUs
    bfloat16 is mostly emulated and many times slower, on MPS it gains little.

    Parameters
    ----------
    precision
        ``"auto"``, ``"fp32"``, ``"bf16"``, or a value, which is taken as it is, its own ``tf32``
        included.
    device
        A torch device or its name.
    tf32
        See :class:`Precision`.

    Raises
    ------
    InputError
        The name is unknown, or bf16 is asked of a CUDA device that lacks it.

    Examples
    --------
    >>> resolve_precision("auto", "cpu")
    Precision(name='fp32', tf32=False)
    """
    if isinstance(precision, Precision):
        wanted = precision
    elif precision == "auto":
        wanted = Precision("bf16" if _has_bf16(device) else "fp32", tf32)
    else:
        wanted = Precision(precision, tf32)  # type: ignore[arg-type]  # checked in there
    if wanted.name == "bf16" and _kind(device) == "cuda" and not _has_bf16(device):
        raise InputError(
            f"precision: expected a device that computes in bfloat16; {device} does not. "
            "Use 'fp32' or 'auto'."
        )
    return wanted


def _kind(device: Any) -> str:
    """``"cuda"`` of ``"cuda:1"`` or of a torch device."""
    return str(getattr(device, "type", device)).partition(":")[0]


def _has_bf16(device: Any) -> bool:
    """Whether this is a CUDA device whose hardware computes in bfloat16."""
    if _kind(device) != "cuda":
        return False
    import torch

    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


@dataclass(frozen=True)
class _TF32Flags:
    """Torch's TF32 flags as they are, to be put back.

    They exist twice: older names everywhere, and from torch 2.9 on ``fp32_precision`` beside them.
    Where the two disagree torch makes it an error to read the old one, so both are set, the
    old one first as it writes to the new one. Both are put back, as each has values that the other
    cannot express: "medium", and "none" for following ``torch.backends.fp32_precision``.
    """

    products: str | None  # None where it cannot be read: then the new names alone count
    convolutions: bool | None
    newer: tuple[str | None, ...]

    @classmethod
    def read(cls) -> _TF32Flags:
        import torch

        newer = tuple(getattr(part, "fp32_precision", None) for part in _newer_flags())
        products: str | None = None
        convolutions: bool | None = None
        with suppress(RuntimeError):
            products = torch.get_float32_matmul_precision()
        with suppress(RuntimeError):
            convolutions = torch.backends.cudnn.allow_tf32
        return cls(products, convolutions, newer)

    @staticmethod
    def set(on: bool) -> None:
        import torch

        torch.set_float32_matmul_precision("high" if on else "highest")
        torch.backends.cudnn.allow_tf32 = on
        for part in _newer_flags()[:3]:
            if hasattr(part, "fp32_precision"):
                part.fp32_precision = "tf32" if on else "ieee"

    def restore(self) -> None:
        import torch

        if self.products is not None:
            torch.set_float32_matmul_precision(self.products)
        if self.convolutions is not None:
            torch.backends.cudnn.allow_tf32 = self.convolutions
        for part, precision in zip(_newer_flags(), self.newer, strict=True):
            if precision is not None:
                part.fp32_precision = precision


def _newer_flags() -> tuple[Any, ...]:
    """What has an ``fp32_precision`` in recent torch; the precision of products writes to the CPU's."""
    from torch import backends

    cudnn: Any = backends.cudnn
    return (
        backends.cuda.matmul,
        getattr(cudnn, "conv", None),
        getattr(cudnn, "rnn", None),
        getattr(backends.mkldnn, "matmul", None),
    )
