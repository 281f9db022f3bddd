"""The user's model: build it at a size, count its parameters, find the size for a wanted N.

Counting and searching build on torch's meta device, where nothing is allocated: an 80-layer model
costs seconds and no memory.
"""

from flops_fit.model.params import count_params, find_experts
from flops_fit.model.spec import ModelSpec

__all__ = ["ModelSpec", "count_params", "find_experts"]
