"""Peak FLOP/s of devices for dense matrix products, from their vendors' data sheets.

NVIDIA's data sheets from Ampere on show rates for sparse matrices, twice those listed here.
GeForce cards multiply 16-bit numbers at half rate when they accumulate in 32 bits, as torch does;
that rate is listed. A name has to match as a whole: laptop, cut-down and partitioned devices (MIG)
have similar names and are slower.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Peak:
    """In 1e12 FLOP/s by the format that is multiplied; sums are kept in 32 bits.

    ``None`` if the device does not compute in that format, or its vendor does not say.
    """

    fp32: float | None
    tf32: float | None = None
    bf16: float | None = None


PEAKS: dict[str, Peak] = {
    # NVIDIA V100 Tensor Core GPU data sheet (2020); NVIDIA T4 data sheet (2019): neither has bf16.
    r"V100-SXM2-\d+GB": Peak(15.7),
    r"V100-PCIE-\d+GB": Peak(14.0),
    r"V100S-PCIE-32GB": Peak(16.4),
    r"T4": Peak(8.1),
    # NVIDIA A10, A30, A40 and A100 Tensor Core GPU data sheets (2021 to 2022).
    r"A10": Peak(31.2, 62.5, 125.0),
    r"A30": Peak(10.3, 82.0, 165.0),
    r"A40": Peak(37.4, 74.8, 149.7),
    r"A100-(SXM4|PCIE)-\d+GB|A100 80GB PCIe": Peak(19.5, 156.0, 312.0),
    # NVIDIA Ampere GA102 GPU architecture whitepaper (2021), rates with fp32 accumulation.
    r"RTX A6000": Peak(38.7, 77.4, 154.8),
    r"GeForce RTX 3090": Peak(35.6, 35.6, 71.0),
    # NVIDIA L4, L40 and L40S data sheets (2023); L4 gives sparse rates alone, halved here.
    r"L4": Peak(30.3, 60.0, 121.0),
    r"L40": Peak(90.5, 90.5, 181.0),
    r"L40S": Peak(91.6, 183.0, 362.0),
    # NVIDIA Ada GPU architecture whitepaper (2022), rates with fp32 accumulation.
    r"GeForce RTX 4090": Peak(82.6, 82.6, 165.2),
    # NVIDIA H100 Tensor Core GPU architecture whitepaper (SXM5 and PCIe); H100 data sheet (NVL) and
    # H200 data sheet (SXM as H100's, NVL), sparse rates halved. The name of an H100 SXM5 has its
    # memory and not its form.
    r"H100 80GB HBM3|H200": Peak(66.9, 494.7, 989.4),
    r"H100 PCIe": Peak(51.2, 378.0, 756.0),
    r"(H100|H200) NVL": Peak(60.0, 417.5, 835.5),
    # NVIDIA HGX B200 specifications: eight GPUs with sparsity, so a sixteenth.
    r"B200": Peak(None, 1125.0, 2250.0),
    # AMD Instinct MI250X data sheet (2021): 95.7 and 383 for two dies, which torch sees as two
    # devices. AMD Instinct MI300X data sheet (2023), all of its dies as one device.
    r"Instinct MI250X": Peak(47.9, None, 191.5),
    r"Instinct MI300X": Peak(163.4, 653.7, 1307.4),
}
_MAKERS = re.compile(r"^(NVIDIA |Tesla |AMD )+")

# Short names, each with a whole name.
_SHORT = {
    "V100": "V100-SXM2-32GB",
    "T4": "T4",
    "A10": "A10",
    "A30": "A30",
    "A40": "A40",
    "A100": "A100-SXM4-80GB",
    "RTX A6000": "RTX A6000",
    "RTX 3090": "GeForce RTX 3090",
    "L4": "L4",
    "L40": "L40",
    "L40S": "L40S",
    "RTX 4090": "GeForce RTX 4090",
    "H100": "H100 80GB HBM3",
    "H100 PCIe": "H100 PCIe",
    "H100 NVL": "H100 NVL",
    "H200": "H200",
    "B200": "B200",
    "MI250X": "Instinct MI250X",
    "MI300X": "Instinct MI300X",
}
DEVICES = tuple(_SHORT)


def find_peak(name: str) -> Peak | None:
    """The peak of a device by its whole name, as its driver gives it; ``None`` if not listed.

    Examples
    --------
    >>> find_peak("NVIDIA L4").bf16
    121.0
    """
    plain = _MAKERS.sub("", name.strip())
    return next((peak for p, peak in PEAKS.items() if re.fullmatch(p, plain)), None)


def peak_by_short_name(name: str) -> Peak | None:
    """The peak of a device by its short name, or by its whole name.

    Examples
    --------
    >>> peak_by_short_name("h100").bf16
    989.4
    """
    plain = _MAKERS.sub("", name.strip()).lower()
    whole = next((full for short, full in _SHORT.items() if short.lower() == plain), name)
    return find_peak(whole)
