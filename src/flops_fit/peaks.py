"""Peak FLOP/s of devices for dense matrix products, from their vendors' data sheets.

NVIDIA's data sheets from Ampere on show rates for sparse matrices, twice those listed here. Rates
are those with sums in 32 bits, as in torch: half of the others for 16-bit numbers on GeForce cards.
A name has to match as a whole: laptop, cut-down and partitioned (MIG) devices are slower.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Peak:
    """In 1e12 FLOP/s by the format that is multiplied; ``None`` if it has none, or is not known."""

    fp32: float | None
    tf32: float | None = None
    bf16: float | None = None
    short: str = ""  # a name for people


PEAKS: dict[str, Peak] = {
    # NVIDIA V100 Tensor Core GPU data sheet (2020); NVIDIA T4 data sheet (2019): neither has bf16.
    r"V100-SXM2-\d+GB": Peak(15.7, short="V100"),
    r"V100-PCIE-\d+GB": Peak(14.0),
    r"V100S-PCIE-32GB": Peak(16.4),
    r"T4": Peak(8.1, short="T4"),
    # NVIDIA A10, A30, A40 and A100 Tensor Core GPU data sheets (2021 to 2022).
    r"A10": Peak(31.2, 62.5, 125.0, "A10"),
    r"A30": Peak(10.3, 82.0, 165.0, "A30"),
    r"A40": Peak(37.4, 74.8, 149.7, "A40"),
    r"A100-(SXM4|PCIE)-\d+GB|A100 80GB PCIe": Peak(19.5, 156.0, 312.0, "A100"),
    # NVIDIA Ampere GA102 GPU architecture whitepaper (2021), rates with fp32 accumulation.
    r"RTX A6000": Peak(38.7, 77.4, 154.8, "RTX A6000"),
    r"GeForce RTX 3090": Peak(35.6, 35.6, 71.0, "RTX 3090"),
    # NVIDIA L4, L40 and L40S data sheets (2023); L4 gives sparse rates alone, halved here.
    r"L4": Peak(30.3, 60.0, 121.0, "L4"),
    r"L40": Peak(90.5, 90.5, 181.0, "L40"),
    r"L40S": Peak(91.6, 183.0, 362.0, "L40S"),
    # NVIDIA Ada GPU architecture whitepaper (2022), rates with fp32 accumulation.
    r"GeForce RTX 4090": Peak(82.6, 82.6, 165.2, "RTX 4090"),
    # NVIDIA H100 Tensor Core GPU architecture whitepaper (SXM5 and PCIe); H100 data sheet (NVL) and
    # H200 data sheet (SXM as H100's, NVL), sparse rates halved. The name of an H100 SXM5 has its
    # memory and not its form.
    r"H100 80GB HBM3": Peak(66.9, 494.7, 989.4, "H100"),
    r"H100 PCIe": Peak(51.2, 378.0, 756.0, "H100 PCIe"),
    r"(H100|H200) NVL": Peak(60.0, 417.5, 835.5, "H100 NVL"),
    r"H200": Peak(66.9, 494.7, 989.4, "H200"),
    # NVIDIA HGX B200 specifications: eight GPUs with sparsity, so a sixteenth.
    r"B200": Peak(None, 1125.0, 2250.0, "B200"),
    # AMD Instinct MI250X data sheet (2021): 95.7 and 383 for two dies, which torch sees as two
    # devices. AMD Instinct MI300X data sheet (2023), all of its dies as one device.
    r"Instinct MI250X": Peak(47.9, None, 191.5, "MI250X"),
    r"Instinct MI300X": Peak(163.4, 653.7, 1307.4, "MI300X"),
}
_MAKERS = re.compile(r"^(NVIDIA |Tesla |AMD )+")
_BY_SHORT = {peak.short.lower(): peak for peak in PEAKS.values() if peak.short}
DEVICES = tuple(peak.short for peak in PEAKS.values() if peak.short)


def find_peak(name: str) -> Peak | None:
    """The peak of a device by its whole name, as its driver gives it; ``None`` if not listed."""
    plain = _MAKERS.sub("", name.strip())
    return next((peak for p, peak in PEAKS.items() if re.fullmatch(p, plain)), None)


def peak_by_short_name(name: str) -> Peak | None:
    """The peak of a device by its short name, in any case, or by its whole name."""
    plain = _MAKERS.sub("", name.strip()).lower()
    return _BY_SHORT.get(plain) or find_peak(name)
