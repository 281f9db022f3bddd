"""What the device of a run can do at most, in the numbers that it computes in."""

from __future__ import annotations

import math
from typing import Any

from flops_fit.errors import InputError
from flops_fit.peaks import find_peak
from flops_fit.train._precision import Precision

__all__ = ["check_peak", "device_peak", "peak_of"]


def peak_of(name: str, precision: Precision) -> float | None:
    """Dense FLOP/s of a device in the numbers of ``precision``; ``None`` where it is not listed.

    Parameters
    ----------
    name
        As ``torch.cuda.get_device_name`` gives it.
    precision
        bf16, TF32 or fp32 decide which of its units compute.

    Examples
    --------
    >>> peak_of("NVIDIA A100-SXM4-80GB", Precision("bf16"))
    312000000000000.0
    >>> peak_of("NVIDIA A100-SXM4-40GB MIG 1g.5gb", Precision("bf16")) is None
    True
    """
    peak = find_peak(name)
    if peak is None:
        return None
    kind = "bf16" if precision.name == "bf16" else "tf32" if precision.tf32 else "fp32"
    found: float | None = getattr(peak, kind)
    return None if found is None else found * 1e12


def device_peak(device: str, precision: Precision) -> float | None:
    """Dense FLOP/s of a torch device; ``None`` for CPUs and for what is not listed."""
    if not device.startswith("cuda"):
        return None
    import torch

    return peak_of(torch.cuda.get_device_name(device), precision)


def check_peak(peak: Any) -> float | None:
    """``None``, or positive FLOP/s.

    Raises
    ------
    InputError
        It is something else.
    """
    if peak is None:
        return None
    number = isinstance(peak, int | float) and not isinstance(peak, bool)
    if not (number and 0 < peak < math.inf):
        raise InputError(
            "peak_flops: expected the FLOP/s of the device at most, such as 312e12, or None; "
            f"got {peak!r}."
        )
    return float(peak)
