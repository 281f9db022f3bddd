"""What devices can do at most: FLOP/s of dense matrix products, from their vendors' data sheets.

Data sheets of NVIDIA from Ampere on head their tables with rates for sparse matrices, twice those
here. GeForce cards multiply 16-bit numbers at half rate where they add up in 32 bits, as torch
does; that rate is listed. A name has to match as a whole: laptop, cut-down and partitioned
devices (MIG) carry like names and do less.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from flops_fit.errors import InputError
from flops_fit.train._precision import Precision

__all__ = ["check_peak", "device_peak", "peak_of"]


@dataclass(frozen=True)
class _Peak:
    """In 1e12 FLOP/s; ``None`` for what the device does not compute in, or its maker does not say."""

    fp32: float | None
    tf32: float | None = None
    bf16: float | None = None


_PEAKS: dict[str, _Peak] = {
    # NVIDIA V100 Tensor Core GPU data sheet (2020); NVIDIA T4 data sheet (2019): neither has bf16.
    r"V100-SXM2-\d+GB": _Peak(15.7),
    r"V100-PCIE-\d+GB": _Peak(14.0),
    r"V100S-PCIE-32GB": _Peak(16.4),
    r"T4": _Peak(8.1),
    # NVIDIA A10, A30, A40 and A100 Tensor Core GPU data sheets (2021 to 2022).
    r"A10": _Peak(31.2, 62.5, 125.0),
    r"A30": _Peak(10.3, 82.0, 165.0),
    r"A40": _Peak(37.4, 74.8, 149.7),
    r"A100-(SXM4|PCIE)-\d+GB|A100 80GB PCIe": _Peak(19.5, 156.0, 312.0),
    # NVIDIA Ampere GA102 GPU architecture whitepaper (2021), rates with fp32 accumulation.
    r"RTX A6000": _Peak(38.7, 77.4, 154.8),
    r"GeForce RTX 3090": _Peak(35.6, 35.6, 71.0),
    # NVIDIA L4, L40 and L40S data sheets (2023); L4 gives sparse rates alone, halved here.
    r"L4": _Peak(30.3, 60.0, 121.0),
    r"L40": _Peak(90.5, 90.5, 181.0),
    r"L40S": _Peak(91.6, 183.0, 362.0),
    # NVIDIA Ada GPU architecture whitepaper (2022), rates with fp32 accumulation.
    r"GeForce RTX 4090": _Peak(82.6, 82.6, 165.2),
    # NVIDIA H100 Tensor Core GPU architecture whitepaper (SXM5 and PCIe); H100 data sheet (NVL) and
    # H200 data sheet (SXM as H100's, NVL), sparse rates halved. The name of an H100 SXM5 has its
    # memory and not its form.
    r"H100 80GB HBM3|H200": _Peak(66.9, 494.7, 989.4),
    r"H100 PCIe": _Peak(51.2, 378.0, 756.0),
    r"(H100|H200) NVL": _Peak(60.0, 417.5, 835.5),
    # NVIDIA HGX B200 specifications: eight GPUs with sparsity, so a sixteenth.
    r"B200": _Peak(None, 1125.0, 2250.0),
    # AMD Instinct MI250X data sheet (2021): 95.7 and 383 for two dies, which torch sees as two
    # devices. AMD Instinct MI300X data sheet (2023), all of its dies as one device.
    r"Instinct MI250X": _Peak(47.9, None, 191.5),
    r"Instinct MI300X": _Peak(163.4, 653.7, 1307.4),
}
_MAKERS = re.compile(r"^(NVIDIA |Tesla |AMD )+")


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
    plain = _MAKERS.sub("", name.strip())
    for pattern, peak in _PEAKS.items():
        if re.fullmatch(pattern, plain):
            found = (
                peak.bf16
                if precision.name == "bf16"
                else peak.tf32
                if precision.tf32
                else peak.fp32
            )
            return None if found is None else found * 1e12
    return None


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
