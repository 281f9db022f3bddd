"""The user's model: build it at a size, count its parameters, find the size for a wanted N.

All of that is done on torch's meta device, where nothing is allocated.
"""

from flops_fit.model.params import count_params, find_experts
from flops_fit.model.sizes import ModelSizes
from flops_fit.model.spec import ModelSpec

__all__ = ["ModelSizes", "ModelSpec", "count_params", "find_experts"]
