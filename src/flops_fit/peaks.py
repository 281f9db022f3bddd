"""Peak FLOP/s of devices for dense matrix products, from their vendors' data sheets.

NVIDIA's data sheets from Ampere on show rates for sparse matrices, twice those listed here. Rates
are those with sums in 32 bits, as in torch: half of the others for 16-bit numbers on GeForce cards.
A name has to match as a whole: laptop, cut-down and partitioned (MIG) devices are slower.
"""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Peak:
    """In 1e12 FLOP/s by the format that is multiplied; ``None`` if it has none, or is not known."""

    fp32: float | None = None
    tf32: float | None = None
    bf16: float | None = None
    short: str = ""  # a name for people


_TABLE = tomllib.loads(Path(__file__).with_name("peaks.toml").read_text(encoding="utf-8"))
PEAKS = {pattern: Peak(**rates) for pattern, rates in _TABLE.items()}
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
