"""What a run computes on."""

from __future__ import annotations

from typing import Any

from flops_fit.errors import InputError, InputTypeError
from flops_fit.ranks import rank_device

__all__ = ["resolve_device"]


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
