"""The user's data: samples by index, a held-out part, units, and a sampler that can resume.

Which samples a step trains on, and what a random transform makes of them, is a pure function of
the seed, the epoch and the position in it: a run is the same wherever it is made.
"""

from flops_fit.data.axes import DataAxes, axes_of_data, made_data
from flops_fit.data.spec import EVAL_SAMPLES, DataSpec, check_dataset_type, split_data

__all__ = [
    "EVAL_SAMPLES", "DataAxes", "DataSpec", "axes_of_data", "check_dataset_type", "made_data", "split_data",
]  # fmt: skip
